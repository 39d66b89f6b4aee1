"""PTX's fundamental types as numpy sees them."""

from __future__ import annotations

import numpy as np


def _dtypes(kind: str, *widths: int) -> dict[int, np.dtype]:
    return {width: np.dtype(f"{kind}{width // 8}") for width in widths}


UNSIGNED, SIGNED = _dtypes("u", 8, 16, 32, 64), _dtypes("i", 8, 16, 32, 64)
FLOATING = _dtypes("f", 16, 32, 64)
PREDICATE: np.dtype = np.dtype(np.bool_)


class PtxError(Exception):
    """What the program may not do, or what this interpreter does not know. The machine adds the line and its text."""


def _table() -> dict[str, tuple[int, np.dtype]]:
    table = {"pred": (1, PREDICATE)}
    for width in UNSIGNED:
        table[f"b{width}"] = table[f"u{width}"] = (width, UNSIGNED[width])
        table[f"s{width}"] = (width, SIGNED[width])
    for width in FLOATING:
        table[f"f{width}"] = (width, FLOATING[width])
    # held as bits: numpy has no such type
    table["bf16"] = (16, UNSIGNED[16])
    table["f16x2"] = table["bf16x2"] = table["tf32"] = table["s16x2"] = table["u16x2"] = (32, UNSIGNED[32])
    return table


_TYPES = _table()


def is_type(name: str) -> bool:
    return name in _TYPES


def width_of(name: str) -> int:
    """Bits of a value of this type; 1 for a predicate."""
    return _lookup(name)[0]


def dtype_of(name: str) -> np.dtype:
    return _lookup(name)[1]


def _lookup(name: str) -> tuple[int, np.dtype]:
    if name not in _TYPES:
        raise PtxError(f"unknown type .{name}")
    return _TYPES[name]
