"""Small SASS listings, written as nvdisasm prints them."""

from __future__ import annotations

from tools.machine_code.sass import Listing, parse

MMA = "HMMA.16816.F32 R0, R4, R8, R0"


def text_of(body: str, name: str = "k") -> str:
    """One instruction or label a line of `body`; addresses are 16 bytes apart."""
    lines, address = [f'\t.section\t.text.{name},"ax",@progbits', f".text.{name}:"], 0
    for text in body.strip().splitlines():
        if text.strip().endswith(":"):
            lines.append(text.strip())
        else:
            lines.append(f"        /*{address:04x}*/                   {text.strip()} ;")
            address += 16
    return "\n".join(lines)


def listing(body: str) -> Listing:
    """The listing, read."""
    return parse(text_of(body))["k"]


def repeated(count: int, text: str) -> str:
    """The instruction `count` times."""
    return "\n".join([text] * count)
