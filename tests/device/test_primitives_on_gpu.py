"""Every function of csrc/cuda/ptx on a device, by the tests of its PTX; `make gpu-check` counts these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.device import test_primitives_ptx as primitives
from tests.device.compile import nvcc, ptx_of
from tests.device.hardware import HardwareModule

MISSING = "no CUDA device" if not torch.cuda.is_available() else "no nvcc on the PATH" if nvcc() is None else ""

CALLS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "indices": (primitives.test_indices, ()),
    "math": (primitives.test_math, ()),
    "lowest bit": (primitives.test_lowest_bit, ()),
    "votes": (primitives.test_warp_any, ()),
    "exp2 and log2": (primitives.test_exp2_and_log2, ()),
    "conversions": (primitives.test_conversions, ()),
    **{f"global memory, {width} bits": (primitives.test_global_memory, (width,)) for width in (8, 16, 32, 64, 128)},
    "written memory": (primitives.test_global_memory_that_the_kernel_wrote, ()),
    "pointers": (primitives.test_pointers, ()),
    **{f"shared memory, {width} bits": (primitives.test_shared_memory, (width,)) for width in (16, 32, 64, 128)},
    "copies": (primitives.test_asynchronous_copies, ()),
    "warps": (primitives.test_sync_of_a_warp_shuffles_and_reductions, ()),
    "matrices": (primitives.test_matrices, ()),
    **{f"products of {kind}": (primitives.test_products, (kind,)) for kind in ("Half", "BFloat16")},
}


@pytest.fixture
def module(record_property) -> Iterator[HardwareModule]:
    """The primitives, compiled for this device, whose launches are counted."""
    major, minor = torch.cuda.get_device_capability()
    made = HardwareModule(ptx_of(primitives.SOURCE, 10 * major + minor))
    yield made
    record_property("device", torch.cuda.get_device_name())
    record_property("launches", made.launches)


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("name", CALLS)
def test_primitive_on_gpu(name: str, module: HardwareModule) -> None:
    call, arguments = CALLS[name]
    call(module, *arguments)


def test_every_test_of_the_primitives_is_here() -> None:
    """But for those that look at the text, or at what only the interpreter sees."""
    others = {
        "test_every_primitive_has_a_kernel",
        "test_barrier_of_a_warp_stands_between_store_and_load",
        "test_accesses_out_of_bounds_are_seen",
    }
    names = {name for name in vars(primitives) if name.startswith("test_")}
    assert names - others == {call.__name__ for call, _ in CALLS.values()}
