"""The GPU backends of concat_fusion on a device, against fp64; `make gpu-check` counts these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backends import dtypes
from tests.fusion.naive import ACTIVATIONS, CASES, Case
from tests.fusion.rule import Expectation
from tests.on_gpu import Counted, counted, on_backends
from tests.tolerance import same_bits

SIZES = {
    "tiles": Case(((300, 264), (300, 72)), 130, activation="gelu"),
    "odd widths": Case(((129, 15), (129, 1), (129, 333)), 97, norm="layer", activation="tanh", residual=(129, 97)),
    "shared rows": Case(((4, 300, 136), (4, 1, 264)), 136, norm="layer", activation="silu", gate=(300, 1)),
    "many rows": Case(((5000, 64), (5000, 192)), 256, norm="rms", gate=(256,)),
    "no rows": Case(((0, 9),), 3, norm="layer"),
}
"""Whole and ragged tiles, chunks of rows, chains of sums, addresses that are not aligned."""


@pytest.fixture(autouse=True)
def module(backend: str, record_property) -> Iterator[Counted]:
    """The backend of the test, whose calls are counted."""
    yield from counted("concat_fusion", backend, record_property)


def check(case: Case, dtype: torch.dtype, backend: str) -> None:
    Expectation(case, case.operands(dtype), rounded=dtype != torch.float32).check(backend, "cuda")


@on_backends
@dtypes()
@pytest.mark.parametrize("name", [*CASES, *SIZES])
def test_form_on_gpu(name: str, dtype: torch.dtype, backend: str) -> None:
    check((CASES | SIZES)[name], dtype, backend)


@on_backends
@dtypes()
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_on_gpu(activation: str | None, dtype: torch.dtype, backend: str) -> None:
    check(Case(((3, 70, 40), (3, 1, 24)), 72, norm="layer", activation=activation, gate=(72,)), dtype, backend)


@on_backends
@dtypes()
def test_bits_repeat_on_gpu(dtype: torch.dtype, backend: str) -> None:
    case = SIZES["shared rows"]
    expected = Expectation(case, case.operands(dtype))
    first, again = expected.run(backend, "cuda"), expected.run(backend, "cuda")
    for name, tensor in first.items():
        same_bits(name, tensor, again[name])
