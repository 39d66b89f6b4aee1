"""Loads the C++ library once and keeps the reason when it cannot be loaded.

``MMKERNELS_DISABLE_NATIVE=1`` in the environment keeps it unloaded: everything then runs on the reference backend.
``MMKERNELS_CPU_ISA`` names the instruction set (``mmkernels info`` lists them); the default is the best there is.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NoReturn

import torch

LIBRARY = Path(__file__).with_name("_C.abi3.so")
OLDEST_TORCH = (2, 10)


def disabled() -> bool:
    """Whether the environment says that no C++ library is to be loaded."""
    return os.environ.get("MMKERNELS_DISABLE_NATIVE", "").strip().lower() in ("1", "true", "yes", "on")


def why_not_opened(library: Path) -> str | None:
    """Load a library of torch's ops; None, or what keeps it from loading here."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        return f"it needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, and this is {torch.__version__}"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return str(error.__cause__ or error)  # torch only says which file, its cause which symbol or library is missing
    return None


def _load() -> str | None:
    """Load the library; return None, or one sentence that says why it is not there."""
    if disabled():
        return "the C++ library was not loaded because MMKERNELS_DISABLE_NATIVE is set in the environment"
    if not LIBRARY.exists():
        return f"the C++ library {LIBRARY.name} was not built (it is expected beside {Path(__file__).name})"
    if (reason := why_not_opened(LIBRARY)) is not None:
        return f"the C++ library {LIBRARY.name} could not be loaded: {reason}"
    name, known = os.environ.get("MMKERNELS_CPU_ISA", ""), torch.ops.mmkernels_cpu.isas().split()
    if name and name not in known:
        reason = f"MMKERNELS_CPU_ISA is {name!r}, expected one of {', '.join(known)} on this processor"
        warnings.warn(f"mmkernels: the cpu backend is off: {reason}", RuntimeWarning, stacklevel=2)
        return reason
    return None


why_not_loaded: str | None = _load()
loaded: bool = why_not_loaded is None


def description() -> str:
    """What of the library runs here: its instruction set, and those that this processor could run."""
    if not loaded:
        return str(why_not_loaded)
    library = torch.ops.mmkernels_cpu
    return f"instruction set {library.isa()} (this processor runs {library.isas().replace(' ', ', ')})"


def reraise(error: RuntimeError) -> NoReturn:
    """The library's own complaints are about values that the caller passed: they become a `ValueError`."""
    text = str(error)
    position = text.find("mmkernels:")
    if position < 0:
        raise error
    raise ValueError(text[position:].splitlines()[0].removeprefix("mmkernels:").strip()) from None
