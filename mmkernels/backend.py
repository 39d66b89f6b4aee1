"""The one dispatcher: which backend serves a problem, and why the others do not.

An op registers its backends here (``register``); a backend is a module with ``why_not(problem) -> list[str]``, empty
where it can run the problem. Answers are cached per ``Problem``.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch

from mmkernels import _native, _native_cuda, _triton

NAMES = ("cpu", "cuda", "triton", "reference")
"""Every backend, whatever the device."""

ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
"""The order in which ``backend=None`` tries them, by device type; any other device has the reference only."""


class Problem(NamedTuple):
    """What a backend needs to know to accept or refuse a call: no tensors, hashable."""

    op: str
    """Name of the op with its direction, ``"attention_forward"``."""
    device: torch.device
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the main operands, in the order of the op's arguments."""
    features: frozenset[str] = frozenset()
    """What the call uses beyond its operands: ``"varlen"``, ``"dropout"``, ``"dense bias"``, ..."""
    other_dtypes: frozenset[torch.dtype] = frozenset()
    """Dtypes of bias, norm, gate and the like, which need not be that of the operands."""


NATIVE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the C++ and the Triton kernels take."""


def why_not_native(problem: Problem, other: str) -> list[str]:
    """What keeps any of the CPU's C++ kernels from a problem; `other`: what its other dtypes are those of."""
    reasons = []
    if _native.why_not_loaded is not None:
        reasons.append(_native.why_not_loaded)
    if problem.device.type != "cpu":
        reasons.append(f"the tensors are on {problem.device}, not on the CPU")
    return reasons + _why_not_dtypes(problem, other)


def why_not_native_cuda(problem: Problem, other: str) -> list[str]:
    """What keeps any of the C++ kernels for GPUs from a problem."""
    return _native_cuda.why_not_on(problem.device) + _why_not_dtypes(problem, other)


def why_not_triton(problem: Problem, other: str) -> list[str]:
    """What keeps any of the Triton kernels from a problem."""
    return _triton.why_not_on(problem.device) + _why_not_dtypes(problem, other)


def _why_not_dtypes(problem: Problem, other: str) -> list[str]:
    reasons = []
    if problem.dtype not in NATIVE_DTYPES:
        reasons.append(f"it has no {problem.dtype} kernels")
    return reasons + [f"it reads no {other} in {dtype}" for dtype in problem.other_dtypes if dtype not in NATIVE_DTYPES]


class BackendNotAvailable(ValueError):
    """A backend that the caller named cannot run the problem; the text holds every reason."""


_backends: dict[str, dict[str, ModuleType]] = {}
_warned: set[tuple[str, str]] = set()
_forget: list[Callable[[], None]] = []


def register(op: str, modules: dict[str, ModuleType]) -> None:
    """Make backends known for ``op`` (its name without direction); each module has ``why_not(problem)``."""
    unknown = set(modules) - set(NAMES)
    if unknown:
        raise ValueError(f"modules: backend names are {NAMES}, got {sorted(unknown)}")
    _backends[op] = modules
    select.cache_clear()
    for forget in _forget:
        forget()


def on_register(forget: Callable[[], None]) -> None:
    """Call ``forget`` whenever backends are registered: for what remembers which backend was chosen."""
    _forget.append(forget)


def check_name(name: object) -> None:
    """Raise unless ``name`` is None or the name of a backend."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"backend must be None or one of {NAMES}, got {type(name).__name__}")
    if name is not None and name not in NAMES:
        raise ValueError(f"backend must be None or one of {NAMES}, got {name!r}")


def order_of(device_type: str) -> tuple[str, ...]:
    """The order in which backends are tried on a type of device."""
    return ORDER.get(device_type, ("reference",))


def why_not(problem: Problem, name: str) -> list[str]:
    """Sentences that say why a backend cannot run the problem; empty where it can."""
    module = _modules(problem).get(name)
    if module is None:
        return [f"{problem.op} has no {name!r} backend"]
    return list(module.why_not(problem))


@functools.lru_cache(maxsize=4096)
def select(problem: Problem, name: str | None = None) -> Any:
    """The backend module that runs the problem: the named one, or the first of the device's order that can.

    Raises:
        BackendNotAvailable: (a ``ValueError``) with every reason, if the named backend, or none of the order, can.
    """
    check_name(name)
    if name is not None:
        reasons = why_not(problem, name)
        if reasons:
            raise BackendNotAvailable(f"backend={name!r} cannot run {describe(problem)}: " + "; ".join(reasons))
        return _chosen(problem, name)
    refusals = []
    for candidate in order_of(problem.device.type):
        reasons = why_not(problem, candidate)
        if not reasons:
            return _chosen(problem, candidate)
        refusals.append(f"{candidate}: " + "; ".join(reasons))
    raise BackendNotAvailable(f"no backend can run {describe(problem)}: " + " | ".join(refusals))


def _chosen(problem: Problem, name: str) -> ModuleType:
    """The module, after a warning, once a process, of what of it has not been verified on hardware."""
    module = _modules(problem)[name]
    for sentence in _doubts(module, problem):
        if (name, sentence) not in _warned:
            _warned.add((name, sentence))
            warnings.warn(f"mmkernels: unverified {name} backend: {sentence}", RuntimeWarning, stacklevel=4)
    return module


def _doubts(module: ModuleType, problem: Problem) -> list[str]:
    return list(module.unverified(problem)) if hasattr(module, "unverified") else []


def describe(problem: Problem) -> str:
    """One line that says what the problem is."""
    shapes = ", ".join(str(tuple(shape)) for shape in problem.shapes)
    features = f" with {', '.join(sorted(problem.features))}" if problem.features else ""
    return f"{problem.op}({shapes}){features} in {problem.dtype} on {problem.device}"


class Choice(NamedTuple):
    """Which backend runs one direction of a call, and what is said of every other one."""

    problem: Problem
    backend: str | None
    why_not: dict[str, list[str]]
    unverified: list[str]


def choose(problem: Problem, name: str | None = None) -> Choice:
    """``select`` that tells everything and never raises for a backend that cannot run."""
    check_name(name)
    reasons = {candidate: why_not(problem, candidate) for candidate in NAMES}
    for candidate in NAMES:
        if not reasons[candidate] and candidate not in order_of(problem.device.type):
            reasons[candidate] = [f"it is not in the order of {problem.device.type} devices"]
    wanted = order_of(problem.device.type) if name is None else (name,)
    chosen = next((candidate for candidate in wanted if not reasons[candidate]), None)
    for candidate in NAMES:
        if not reasons[candidate] and candidate != chosen:
            before = "it was not the one named" if name is not None else f"{chosen} comes before it"
            reasons[candidate] = [f"it could, but {before}"]
    module = _modules(problem).get(chosen) if chosen else None
    doubts = [] if module is None else _doubts(module, problem)
    return Choice(problem, chosen, {k: v for k, v in reasons.items() if v}, doubts)


class Explanation(dict[str, Choice]):
    """Choices by direction (``"forward"``, ``"backward"``); ``str()`` gives a readable text."""

    def __str__(self) -> str:
        lines = []
        for direction, choice in self.items():
            lines.append(f"{direction}: {choice.backend or 'no backend'} runs {describe(choice.problem)}")
            lines += [f"  not {name}: {'; '.join(reasons)}" for name, reasons in choice.why_not.items()]
            lines += [f"  unverified: {sentence}" for sentence in choice.unverified]
        return "\n".join(lines)


class BackendTable(dict[str, dict[str, Any]]):
    """Backends by name: ``{"available": bool, "reasons": [...], "ops": [...], "detail": str}``; ``str()``: a table."""

    def __str__(self) -> str:
        rows = []
        for name, row in self.items():
            state = "available" if row["available"] else "not available: " + "; ".join(row["reasons"])
            serving = f" for {', '.join(row['ops'])}" if row["available"] else ""
            rows.append(f"{name:<10} {state}{serving}" + (f"; {row['detail']}" if row["detail"] else ""))
        return "\n".join(rows)


_DESCRIPTIONS = {"cpu": _native.description, "cuda": _native_cuda.description}


def backends() -> BackendTable:
    """Every backend: whether it can run anything at all on this machine, for which ops, and why not.

    ``explain`` answers for one call. JSON-able: a dict of dicts of plain values.
    """
    table = BackendTable()
    for name in NAMES:
        reasons: list[str] = []
        serving = []
        for op, modules in _backends.items():
            missing = _unavailable(modules.get(name), name)
            if missing:
                reasons += [sentence for sentence in missing if sentence not in reasons]
            else:
                serving.append(op)
        detail = _DESCRIPTIONS[name]() if serving and name in _DESCRIPTIONS else ""
        table[name] = {
            "available": bool(serving),
            "reasons": [] if serving else reasons,
            "ops": serving,
            "detail": detail,
        }
    return table


def _unavailable(module: ModuleType | None, name: str) -> list[str]:
    if module is None:
        return [f"this release has no {name!r} kernels"]
    unavailable = tuple(getattr(module, "UNAVAILABLE", ()))
    if unavailable:
        return list(unavailable)
    reason = {
        "cpu": _native.why_not_loaded,
        "cuda": _native_cuda.why_not_here(),
        "triton": _triton.why_not_here(),
    }.get(name)
    return [] if reason is None else [reason]


def _modules(problem: Problem) -> dict[str, ModuleType]:
    op = problem.op.removesuffix("_forward").removesuffix("_backward")
    if op not in _backends:
        raise ValueError(f"problem.op: no backends are registered for {problem.op!r}")
    return _backends[op]
