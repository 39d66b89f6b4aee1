"""Whether triton is there and new enough, found out without importing it until a kernel is wanted."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re

import torch

OLDEST = (3, 7)
"""The release from which kernels may take tuples as ours do."""
VERIFIED: tuple[str, ...] = ()
"""Architectures on which ``make gpu-check`` has passed."""


@functools.cache
def why_not_here() -> str | None:
    """None where triton is installed, new enough and finds a device; else one sentence. Imports no triton."""
    return why_not_installed() or (None if torch.cuda.is_available() else "no GPU was found")


@functools.cache
def why_not_installed() -> str | None:
    """The same of the package alone."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "triton is not installed"
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or tuple(map(int, found.groups())) < OLDEST:
        return f"triton {version} is older than {'.'.join(map(str, OLDEST))}"
    return None


def why_not_on(device: torch.device) -> list[str]:
    """Sentences that say why triton's kernels cannot run on a device; empty where they can."""
    reason = why_not_installed()
    reasons = [] if reason is None else [reason]
    if device.type != "cuda":
        return [*reasons, f"the tensors are on {device}, not on a GPU"]
    if torch.version.hip is None and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            reasons.append(f"{device} has compute capability {capability[0]}.{capability[1]}, below 8.0")
    return reasons


def unverified(device: torch.device) -> list[str]:
    """What has not been confirmed by running on hardware."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    arch = architecture(device)
    return [] if arch in VERIFIED else [f"no Triton kernel has run on {arch} yet"]


# ---- what kernels are compiled for ----


@functools.cache
def architecture(device: torch.device) -> str:
    """The name of a GPU's: sm_90, gfx942."""
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return properties.gcnArchName.partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
