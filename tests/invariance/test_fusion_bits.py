"""concat_fusion: the same bits from run to run and at any number of threads; a row's whatever rows stand beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.backends import NATIVE, Run, default_runs, dtypes, runs
from tests.fusion.naive import Case, Operands, fused, gradients
from tests.layouts import laid_out
from tests.tolerance import same_bits

FORMS = {
    "plain": Case(((300, 40), (300, 7)), 33),
    "layer": Case(((300, 40), (300, 7)), 33, norm="layer", activation="gelu", gate=(33,), residual=(300, 33)),
    "rms": Case(((300, 40), (300, 7)), 33, norm="rms", activation="silu", wide=True),
    "per image": Case(((4, 75, 40), (4, 1, 7)), 33, norm="layer", activation="tanh", gate=(4, 75, 1)),
    "wide": Case(((70, 1000), (70, 33)), 130, norm="layer", activation="gelu_tanh", bias=False),
}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def results(case: Case, operands: Operands, run: Run) -> dict[str, torch.Tensor]:
    with run.active() as backend:
        out = fused(case, operands, backend=backend)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        return {"out": out.detach(), **gradients(out, operands, grad)}


@default_runs()
@dtypes()
@pytest.mark.parametrize("name", FORMS)
def test_run_to_run(name: str, dtype: torch.dtype, run: Run) -> None:
    operands = FORMS[name].operands(dtype)
    first = results(FORMS[name], operands, run)
    for _ in range(2):
        for key, tensor in results(FORMS[name], operands, run).items():
            same_bits(key, tensor, first[key])


@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("name", FORMS)
def test_threads(name: str, dtype: torch.dtype, run: Run) -> None:
    operands = FORMS[name].operands(dtype)
    torch.set_num_threads(1)
    expected = results(FORMS[name], operands, run)
    for threads in (2, 3, 4):
        torch.set_num_threads(threads)
        for key, tensor in results(FORMS[name], operands, run).items():
            same_bits(f"{threads} threads: {key}", tensor, expected[key])


@pytest.mark.slow
@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("rows", [1, 33, 1025, 3000])
def test_threads_at_other_sizes(rows: int, dtype: torch.dtype, run: Run) -> None:
    """Few rows, of which the sums over features and outputs may be split; many, of which the weight's gradient may."""
    case = Case(((rows, 700), (1, 33)), 65, norm="layer", activation="gelu", gate=(), residual=(65,))
    operands = case.operands(dtype)
    torch.set_num_threads(1)
    expected = results(case, operands, run)
    for threads in (2, 3, 4, 7, 16):
        torch.set_num_threads(threads)
        for key, tensor in results(case, operands, run).items():
            same_bits(f"{threads} threads: {key}", tensor, expected[key])


def rows_of(operands: Operands, first: int, last: int) -> Operands:
    """The call for some of the rows: of every operand that has them."""
    count = operands.inputs[0].shape[0]

    def some(tensor: torch.Tensor | None) -> torch.Tensor | None:
        has_rows = tensor is not None and tensor.dim() > 1 and tensor.shape[0] == count
        return tensor[first:last] if has_rows else tensor

    rest = {name: tensor if name == "weight" else some(tensor) for name, tensor in operands.rest.items()}
    return Operands([some(x) for x in operands.inputs], rest)


@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("name", ["plain", "layer", "rms", "wide"])
def test_a_row_alone_and_among_others(name: str, dtype: torch.dtype, run: Run) -> None:
    case = FORMS[name]
    operands = case.operands(dtype)
    count = operands.inputs[0].shape[0]
    with run.active() as backend:
        whole = fused(case, operands, backend=backend)
        for row in (0, 1, 5, 7, 8, 15, 31, 64, count - 2, count - 1):
            alone = fused(case, rows_of(operands, row, row + 1), backend=backend)
            same_bits(f"row {row}", alone, whole[row : row + 1])
        for first, last in ((0, 2), (3, 20), (7, 71), (1, count), (60, 69), (17, 50)):
            some = fused(case, rows_of(operands, first, last), backend=backend)
            same_bits(f"rows {first} to {last}", some, whole[first:last])


@runs(*NATIVE)
@dtypes()
def test_an_image_alone_and_in_a_batch(dtype: torch.dtype, run: Run) -> None:
    """A shared source is multiplied once per image, among others or by itself."""
    case = FORMS["per image"]
    operands = case.operands(dtype)
    with run.active() as backend:
        whole = fused(case, operands, backend=backend)
        for image in range(4):
            alone = fused(case, rows_of(operands, image, image + 1), backend=backend)
            same_bits(f"image {image}", alone, whole[image : image + 1])


@runs(*NATIVE)
@dtypes()
def test_leading_axes_are_rows(dtype: torch.dtype, run: Run) -> None:
    """(300, K), (3, 100, K) and (3, 4, 25, K) are the same 300 rows."""
    case = FORMS["layer"]
    operands = case.operands(dtype)
    with run.active() as backend:
        whole = fused(case, operands, backend=backend)
        for shape in ((3, 100), (3, 4, 25), (300, 1)):
            residual = operands.rest["residual"].view(*shape, 33)
            again = Operands([x.view(*shape, -1) for x in operands.inputs], {**operands.rest, "residual": residual})
            same_bits(f"{shape}", fused(case, again, backend=backend).view(300, 33), whole)


@runs(*NATIVE)
@dtypes()
@pytest.mark.parametrize("layout", ["transposed", "odd slice", "strided", "odd offset"])
def test_layout_does_not_matter(layout: str, dtype: torch.dtype, run: Run) -> None:
    case = FORMS["layer"]
    operands = case.operands(dtype)
    rest = {name: None if x is None else laid_out(x, layout) for name, x in operands.rest.items()}
    other = Operands([laid_out(x, layout) for x in operands.inputs], rest)
    expected = results(case, operands, run)
    for key, tensor in results(case, other, run).items():
        same_bits(key, tensor, expected[key])
