"""The checker itself: it must accept plain torch computed in the dtype, and reject every kind of wrong result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.backends import dtypes
from tests.tolerance import Expectation, explain, same_bits, tolerance

Results = dict[str, Tensor]


def inputs_of(dtype: torch.dtype, dropout_p: float = 0.2) -> Inputs:
    random = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(2, heads, 19, 16, generator=random).to(dtype) for heads in (4, 2, 2))
    bias = torch.randn(1, 4, 19, 19, generator=random)
    options = {"softcap": 4.0, "dropout_p": dropout_p, "seed": 3}
    return Inputs("attention", [query], [key], [value], mmk.Mask.causal(), bias, options=options)


def computed(inputs: Inputs, dtype: torch.dtype, cotangents: Results) -> Results:
    """A right answer by other means than the product: plain torch, rounded to the tensors' own dtypes."""
    found, *_ = plain.evaluate(inputs, cotangents, dtype)
    of = {f"grad {name}": leaf.dtype for name, leaf in inputs.leaves().items()}
    of |= {"out": inputs.dtype, "lse": plain.lse_dtype(inputs.dtype)}
    return {name: tensor.to(of[name]) for name, tensor in found.items()}


@dtypes()
def test_accepts_plain_torch(dtype: torch.dtype) -> None:
    expected = Expectation(inputs_of(dtype))
    for by in (torch.float32, torch.float64):
        expected.check_results(computed(expected.inputs, by, expected.cotangents))


@dtypes(torch.bfloat16, torch.float16)
def test_accepts_16_bit_arithmetic_where_it_is_allowed(dtype: torch.dtype) -> None:
    inputs = inputs_of(dtype)
    rounded = Expectation(inputs, rounded=True)
    found = computed(inputs, dtype, rounded.cotangents)
    del found["lse"]  # an lse of 16 bits is wrong whatever computed it
    rounded.check_results(found)
    if dtype == torch.bfloat16:  # in fp16 the roundings of 16-channel products stay below the results' own
        assert Expectation(inputs).faults(found)


def _poisoned(value: float) -> Callable[[Results], None]:
    def poison(found: Results) -> None:
        for tensor in found.values():
            tensor[(-1,) * tensor.dim()] = value

    return poison


def _percent(dtype: torch.dtype) -> float:
    """1 %; more in 16 bits, where the rule allows a gradient the roundings of all that it sums."""
    return {torch.float32: 1.01, torch.float16: 1.02, torch.bfloat16: 1.1}[dtype]


def _scaled(found: Results) -> None:
    for tensor in found.values():
        tensor.mul_(_percent(found["out"].dtype))


def _one_element(found: Results) -> None:
    """The largest element of each."""
    for tensor in found.values():
        flat = tensor.view(-1)
        flat[flat.float().abs().argmax()] *= _percent(found["out"].dtype)


def _shifted(found: Results) -> None:
    for tensor in found.values():
        tensor.copy_(tensor.roll(1, -1))


def _zeros(found: Results) -> None:
    for tensor in found.values():
        tensor.zero_()


def _swapped(found: Results) -> None:
    """Two rows (keys, queries) of each exchanged."""
    for tensor in found.values():
        axis = min(2, tensor.dim() - 1)
        tensor.copy_(tensor.index_select(axis, torch.tensor([0, 2, 1, *range(3, tensor.shape[axis])])))


SPOILS: dict[str, Callable[[Results], None]] = {
    "nan": _poisoned(torch.nan),
    "inf": _poisoned(torch.inf),
    "-inf": _poisoned(-torch.inf),
    "1 % all over": _scaled,
    "1 % in one element": _one_element,
    "shifted": _shifted,
    "zeros": _zeros,
    "swapped": _swapped,
}


@dtypes()
@pytest.mark.parametrize("spoil", SPOILS)
def test_rejects_spoiled_results(spoil: str, dtype: torch.dtype) -> None:
    expected = Expectation(inputs_of(dtype))
    found = computed(expected.inputs, torch.float64, expected.cotangents)
    SPOILS[spoil](found)
    rejected = {fault.split(":")[0].split(" has ")[0] for fault in expected.faults(found)}
    assert rejected == set(found)


CHANGES: dict[str, Callable[[Inputs], Inputs]] = {
    "diagonal hidden": lambda call: replace(call, mask=mmk.Mask.dense(torch.ones(19, 19).tril(-1).bool())),
    "one key too many": lambda call: replace(call, mask=mmk.Mask.window(None, 1)),
    "no mask": lambda call: replace(call, mask=None),
    "no bias": lambda call: replace(call, bias=torch.zeros(1, 4, 19, 19)),
    "bias transposed": lambda call: replace(call, bias=call.bias.transpose(2, 3)),
    "scale off by 3 %": lambda call: replace(call, options={**call.options, "scale": 0.25 * 1.03}),
    "no softcap": lambda call: replace(call, options={**call.options, "softcap": None}),
    "another seed": lambda call: replace(call, options={**call.options, "seed": 4}),
    "no dropout": lambda call: replace(call, options={"softcap": 4.0}),
    "heads interleaved": lambda call: replace(call, queries=[call.queries[0][:, [0, 2, 1, 3]]]),
    "two keys exchanged": lambda call: replace(call, keys=[call.keys[0][:, :, [0, 2, 1, *range(3, 19)]]]),
    "two values exchanged": lambda call: replace(call, values=[call.values[0][:, :, [0, 2, 1, *range(3, 19)]]]),
}


@dtypes()
@pytest.mark.parametrize("change", CHANGES)
def test_rejects_another_call(change: str, dtype: torch.dtype) -> None:
    """The right answer to another question."""
    expected = Expectation(inputs_of(dtype))
    found = computed(CHANGES[change](expected.inputs), torch.float64, expected.cotangents)
    faults = expected.faults(found)
    assert any(fault.startswith("out") for fault in faults)
    assert any(fault.startswith("grad query") for fault in faults)


@dtypes()
def test_rejects_a_missing_gradient_of_lse(dtype: torch.dtype) -> None:
    expected = Expectation(inputs_of(dtype))
    without = {name: d if name == "out" else torch.zeros_like(d) for name, d in expected.cotangents.items()}
    faults = expected.faults(computed(expected.inputs, torch.float64, without))
    assert {fault.split(":")[0] for fault in faults} == {"grad query 0", "grad key 0", "grad bias 0"}


def faults_of(found: Tensor, reference: Tensor, naive: Tensor, terms: Tensor) -> list[str]:
    return explain("x", found, reference, tolerance(found.dtype, reference, naive, terms))


def test_a_row_of_one_key_has_room_for_rounding() -> None:
    """There naive is exact, and only the terms allow what a correct kernel may round."""
    terms, reference = torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    found = torch.tensor([1.0 + 2.0**-22])
    assert not faults_of(found, reference, reference, terms)
    assert faults_of(found, reference, reference, 0.0 * terms)
    assert faults_of(torch.tensor([1.00001]), reference, reference, terms)


def test_a_naive_path_that_is_not_finite_allows_nothing() -> None:
    reference = torch.tensor([1.0, 2.0], dtype=torch.float64)
    naive = torch.tensor([torch.nan, torch.inf])
    assert not faults_of(torch.tensor([1.0, 2.0]), reference, naive, reference)
    assert faults_of(torch.tensor([1.0, 2.001]), reference, naive, reference)
    assert faults_of(naive, reference, naive, reference)


def test_a_small_error_does_not_hide_a_nan() -> None:
    reference = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    faults = faults_of(torch.tensor([1.0, torch.nan, 1.0]), reference, reference, reference)
    assert faults and "NaN" in faults[0]


def test_infinities_must_be_where_the_reference_has_them() -> None:
    reference = torch.tensor([1.0, -torch.inf], dtype=torch.float64)
    assert not faults_of(torch.tensor([1.0, -torch.inf]), reference, reference, reference)
    for wrong in (torch.inf, torch.nan, -1e30):
        assert faults_of(torch.tensor([1.0, wrong]), reference, reference, reference)


def test_rows_of_finfo_min_are_still_checked() -> None:
    """Their huge bias must not become a huge tolerance."""
    inputs = replace(inputs_of(torch.float32, 0.0), bias=torch.full((1, 1, 19, 19), torch.finfo(torch.float32).min))
    expected = Expectation(inputs)
    found = computed(inputs, torch.float64, expected.cotangents)
    expected.check_results(found)
    for name in ("out", "grad query 0", "grad key 0", "grad value 0", "grad bias 0"):
        spoiled = {name: found[name] * 1.001}
        assert expected.faults(spoiled), name


def test_same_bits() -> None:
    a = torch.tensor([1.0, torch.nan, -torch.inf, 0.0])
    same_bits("a", a, torch.tensor([1.0, torch.nan, -torch.inf, -0.0]))
    for other in (
        [1.0 + 2.0**-23, torch.nan, -torch.inf, 0.0],
        [1.0, 1.0, -torch.inf, 0.0],
        [1.0, torch.nan, 0.0, 0.0],
    ):
        with pytest.raises(AssertionError, match="bits differ"):
            same_bits("a", a, torch.tensor(other))


def test_the_plain_formulas_on_numbers_worked_out_by_hand() -> None:
    """One row, two keys with logits 0 and ln 3: probabilities 1/4 and 3/4."""
    third = torch.tensor(3.0, dtype=torch.float64).log()
    query = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    key = torch.stack([torch.zeros_like(third), third]).view(1, 1, 2, 1)
    value = torch.tensor([4.0, 8.0], dtype=torch.float64).view(1, 1, 2, 1)
    call = Inputs("attention", [query], [key], [value], options={"scale": 1.0})
    ends = {"out": torch.ones(1, 1, 1, 1, dtype=torch.float64), "lse": torch.zeros(1, 1, 1, dtype=torch.float64)}
    found, terms, inner = plain.evaluate(call, ends, torch.float64)
    ds = torch.tensor([-0.75, 0.75], dtype=torch.float64)  # P * (v - out)
    wanted = {
        "out": 7.0, "lse": math.log(4.0), "grad value 0": [0.25, 0.75], "grad key 0": ds.tolist(),
        "grad query 0": float(ds[1] * third),
    }  # fmt: skip
    for name, values in wanted.items():
        expected = torch.tensor(values, dtype=torch.float64).flatten()
        torch.testing.assert_close(found[name].flatten(), expected, rtol=0, atol=1e-15)
    assert float(terms["out"]) == 7.0 and bool((terms["grad key 0"].flatten() >= ds.abs()).all())
    # Products of the logits: 0 and ln 3; of the row: 3/4 ln 3 + 1.
    row = 0.75 * math.log(3.0) + 1.0
    assert float(inner["out"]) == pytest.approx(0.25 * 4.0 * row + 0.75 * 8.0 * (math.log(3.0) + row))
