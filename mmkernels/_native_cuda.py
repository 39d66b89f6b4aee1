"""Loads the library of GPU kernels when it is first asked for, and keeps the reason when it cannot be loaded.

It needs a CUDA torch; importing this module reads nothing and loads nothing. ``MMKERNELS_DISABLE_NATIVE`` switches it
off as it does the CPU's.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from mmkernels import _native

LIBRARY = Path(__file__).with_name("_cuda.abi3.so")
OLDEST = (8, 0)
"""Compute capability that the kernels need."""
VERIFIED: tuple[tuple[int, int], ...] = ()
"""Compute capabilities on which ``make gpu-check`` has passed."""


@functools.cache
def why_not_loaded() -> str | None:
    """None where the library is loaded, or one sentence that says why it is not there. Never raises."""
    if _native.disabled():
        return "the CUDA library was not loaded because MMKERNELS_DISABLE_NATIVE is set in the environment"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    if not LIBRARY.exists():
        return f"the CUDA library {LIBRARY.name} was not built (docs/building.md: it needs nvcc, but no GPU)"
    if (reason := _native.why_not_opened(LIBRARY)) is not None:
        return f"the CUDA library {LIBRARY.name} could not be loaded: {reason}"
    return None


def why_not_here() -> str | None:
    """None where the library's kernels can run anything on this machine."""
    return why_not_loaded() or (None if torch.cuda.is_available() else "no CUDA device was found")


def why_not_on(device: torch.device) -> list[str]:
    """Sentences that say why the library's kernels cannot run on a device; empty where they can."""
    reason = why_not_loaded()
    reasons = [] if reason is None else [reason]
    if device.type != "cuda":
        return [*reasons, f"the tensors are on {device}, not on a GPU"]
    if reason is None and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if not covers(architectures(), capability):
            known = ", ".join(architectures())
            reasons.append(f"{device} has compute capability {_text(capability)}, the library was built for {known}")
    return reasons


def architectures() -> tuple[str, ...]:
    """What the loaded library was compiled for, like ``("8.0", "12.0+PTX")``."""
    return tuple(torch.ops.mmkernels_cuda.architectures().split())


def covers(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether a device of this compute capability runs code compiled for one of the architectures.

    Machine code runs on its own major version from its minor version on, or on itself alone (``a``); PTX on all newer.
    """
    if capability < OLDEST:
        return False
    for architecture in architectures:
        name, ptx, _ = architecture.partition("+PTX")
        major, minor = map(int, name.rstrip("af").split("."))
        if name.endswith("a"):
            if capability == (major, minor):
                return True
        elif (capability[0] == major and capability[1] >= minor) or (ptx and capability >= (major, minor)):
            return True
    return False


def unverified(device: torch.device) -> list[str]:
    """What has not been confirmed by running on hardware, for ``explain`` and for a warning on the first use."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    capability = torch.cuda.get_device_capability(device)
    if capability in VERIFIED:
        return []
    return [f"{verified_text()}, and this device has compute capability {_text(capability)}"]


def verified_text() -> str:
    """On which architectures the CUDA kernels have run their conformance suite."""
    if not VERIFIED:
        return "no architecture has been verified on hardware yet"
    return f"only compute capability {', '.join(map(_text, VERIFIED))} has been verified on hardware"


def description() -> str:
    """What of the library runs here: the architectures it was compiled for, and those that were verified."""
    reason = why_not_loaded()
    if reason is not None:
        return reason
    return f"compiled for compute capability {', '.join(architectures())}; {verified_text()}"


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
