"""Which way each layer's attention takes, seen while a model runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn

from mmkernels import backend as backends
from mmkernels.ops.attention import front
from mmkernels.ops.attention.lowered import Lowered, problem_of

BIASES = (
    "", "a dense bias", "a bias by distance, as a table", "a bias by row and column, as two factors",
)  # fmt: skip


class Entry(NamedTuple):
    """One module of the model: its path in it, its class, and how it is served or why it is not."""

    name: str
    kind: str
    note: str


class Paths(tuple[Entry, ...]):
    """An `Entry` for every layer, whose note is its way; `str()` gives a readable text."""

    def __str__(self) -> str:
        return "\n".join(grouped(self))


def grouped(entries: Iterable[Entry]) -> list[str]:
    """One line for all modules of the same class and note."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        groups.setdefault((entry.kind, entry.note), []).append(entry.name or "(the model)")
    return [
        f"  {len(names)} x {kind} ({names[0]}{', ...' if len(names) > 1 else ''}): {note}"
        for (kind, note), names in groups.items()
    ]


def watch(model: nn.Module, served: Iterable[Entry], run: Callable[[], Any]) -> Paths:
    """Run a model, and write down what reached attention from which of its modules."""
    seen: dict[str, dict[str, None]] = {entry.name: {} for entry in served}
    inside: list[str] = []

    def note(call: Lowered, backend: str | None) -> None:
        seen.setdefault(inside[-1] if inside else "", {})[describe(call, backend)] = None

    def enter(name: str, *_: Any) -> None:
        inside.append(name)

    def leave(*_: Any) -> None:
        inside.pop()

    hooks: list[Any] = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(enter, name), prepend=True))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    front.watchers.append(note)
    try:
        run()
    finally:
        front.watchers.remove(note)
        for hook in hooks:
            hook.remove()
    return Paths(
        Entry(name, type(model.get_submodule(name)).__name__, "; ".join(ways) or "was not called, or not eagerly")
        for name, ways in seen.items()
    )


def describe(call: Lowered, backend: str | None = None) -> str:
    """The way of one call: backend, layout, mask, bias."""
    choice = backends.choose(problem_of(call, "forward"), backend)
    facts = []
    if call.cu_seqlens_q is not None:
        facts.append(f"{len(call.cu_seqlens_q) - 1} packed sequences")
    if len(call.keys) > 1:
        facts.append(f"keys in {len(call.keys)} segments")
    if call.visible is not None:
        alike = call.visible.shape[-2] == 1
        facts.append("a mask of the keys alone, with gaps" if alike else "a dense mask: its rows are not intervals")
    elif call.start is not None:
        facts.append("a mask as intervals")
    else:
        facts.append("no mask")
    facts += [BIASES[call.bias_kind]] if call.bias_kind else []
    why = choice.why_not.get(call.query.device.type) if choice.backend == "reference" else None
    because = f" ({call.query.device.type} cannot: {'; '.join(why)})" if why else ""
    return f"{choice.backend}: {', '.join(facts)}{because}"
