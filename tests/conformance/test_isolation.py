"""A NaN or an infinity in what a row does not see never reaches it, and reaches whoever does see it.

Every test plants NaN, Inf or -Inf somewhere and compares with the same call in which zeros are planted there, bit for
bit, in the outputs and in all gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mmkernels as mmk
from bench.attention.inputs import Inputs
from tests import plain
from tests.backends import DEFAULT, NATIVE, Run, dtypes, runs
from tests.tolerance import same_bits

POISONS = {"nan": [torch.nan], "inf": [torch.inf, -torch.inf, torch.nan]}
poisons = pytest.mark.parametrize("poison", POISONS)

B, HEADS, HEADS_K, ROWS, KEYS, D, DV = 2, 4, 2, 70, 150, 24, 17


def make(dtype: torch.dtype, mask: mmk.Mask | None = None, bias: object = None, **options: object) -> Inputs:
    random = torch.Generator().manual_seed(11)
    sizes = ((B, HEADS, ROWS, D), (B, HEADS_K, KEYS, D), (B, HEADS_K, KEYS, DV))
    query, key, value = (torch.randn(size, generator=random).to(dtype) for size in sizes)
    return Inputs("attention", [query], [key], [value], mask, bias, options=options)


def planted(tensor: Tensor, where: Tensor, poison: str | None) -> Tensor:
    """A copy with zeros, or with the poison's values in turn, where the mask (broadcastable) says."""
    result = tensor.clone()
    where = where.expand(tensor.shape)
    values = torch.tensor([0.0] if poison is None else POISONS[poison]).to(tensor.dtype)
    count = int(where.sum())
    result[where] = values[torch.arange(count) % len(values)]
    return result


def both(
    inputs: Inputs,
    run: Run,
    poison: str,
    leaves: dict[str, Tensor] | None = None,
    ends: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Results with zeros and with poison at the places that `leaves` and `ends` (of the cotangents) name."""
    found = []
    for values in (None, poison):
        tensors = {name: planted(inputs.leaves()[name], where, values) for name, where in (leaves or {}).items()}
        cotangents = plain.cotangents(inputs)
        for name, where in (ends or {}).items():
            cotangents[name] = planted(cotangents[name], where, values)
        with run.active() as backend:
            found.append(plain.run(inputs.replaced(tensors), backend, cotangents))
    return found[0], found[1]


def all_the_same(clean: dict[str, Tensor], dirty: dict[str, Tensor]) -> None:
    for name, tensor in clean.items():
        assert not tensor.isnan().any(), name
        same_bits(name, dirty[name], tensor)


def at(size: int, axis: int, *places: int | slice) -> Tensor:
    """A mask (broadcastable to four axes) that is True at these places of one axis."""
    where = torch.zeros(size, dtype=torch.bool)
    for place in places:
        where[place] = True
    return where.view([-1 if i == axis else 1 for i in range(4)])


def _lengths() -> mmk.Mask:
    return mmk.Mask.key_lengths(torch.tensor([130, 67]))


def _dense_lengths() -> mmk.Mask:
    """The same, with a hole in every row, so that it stays dense; padding is still seen by nobody."""
    visible = torch.arange(KEYS)[None, :] < torch.tensor([130, 67])[:, None]
    return mmk.Mask.dense(visible[:, None, None, :] & (torch.rand(B, 1, ROWS, KEYS) < 0.8))


HIDING: dict[str, Callable[[], mmk.Mask]] = {
    "lengths": _lengths,
    "causal lengths": lambda: mmk.Mask.causal("bottom_right") & _lengths(),
    "dense": _dense_lengths,
}


@pytest.mark.parametrize("hiding", HIDING)
@poisons
@dtypes()
@runs(*DEFAULT)
def test_padding(hiding: str, poison: str, run: Run, dtype: torch.dtype) -> None:
    """Keys and values that no row sees."""
    inputs = make(dtype, HIDING[hiding]())
    padding = (torch.arange(KEYS)[None, :] >= torch.tensor([130, 67])[:, None])[:, None, :, None]
    clean, dirty = both(inputs, run, poison, {"key 0": padding, "value 0": padding})
    all_the_same(clean, dirty)
    for name in ("grad key 0", "grad value 0"):
        assert not dirty[name][padding.expand(dirty[name].shape)].any(), name


@poisons
@runs(*NATIVE[1:])
def test_padding_on_other_instruction_sets(poison: str, run: Run) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        test_padding("causal lengths", poison, run, dtype)


def _empty_by_intervals() -> tuple[mmk.Mask, None]:
    stop = torch.where(torch.arange(ROWS) % 3 == 0, 0, KEYS)
    return mmk.Mask.intervals(0, stop), None


def _empty_by_dense() -> tuple[mmk.Mask, None]:
    visible = torch.rand(1, 1, ROWS, KEYS) < 0.5
    visible[:, :, ::3] = False
    return mmk.Mask.dense(visible), None


def _empty_by_bias() -> tuple[None, Tensor]:
    bias = torch.randn(1, HEADS, ROWS, KEYS)
    bias[:, :, ::3] = -torch.inf
    return None, bias


EMPTY = {"intervals": _empty_by_intervals, "dense": _empty_by_dense, "bias": _empty_by_bias}


@pytest.mark.parametrize("why", EMPTY)
@poisons
@dtypes()
@runs(*DEFAULT)
def test_empty_rows(why: str, poison: str, run: Run, dtype: torch.dtype) -> None:
    """The query, the output gradient and the lse gradient of rows that see nothing."""
    mask, bias = EMPTY[why]()
    inputs = make(dtype, mask, bias)
    rows = at(ROWS, 2, slice(0, None, 3))
    clean, dirty = both(inputs, run, poison, {"query 0": rows}, {"out": rows, "lse": rows[..., 0]})
    all_the_same(clean, dirty)
    assert not dirty["out"][:, :, ::3].any() and (dirty["lse"][:, :, ::3] == -torch.inf).all()
    assert not dirty["grad query 0"][:, :, ::3].any()


@poisons
@runs(*DEFAULT)
def test_bias_of_hidden_pairs(poison: str, run: Run) -> None:
    inputs = make(torch.float32, mmk.Mask.causal(), torch.randn(1, HEADS, ROWS, KEYS))
    hidden = ~torch.ones(ROWS, KEYS, dtype=torch.bool).tril()
    clean, dirty = both(inputs, run, poison, {"bias 0": hidden[None, None]})
    all_the_same(clean, dirty)
    assert not dirty["grad bias 0"][..., hidden].any()


@runs(*DEFAULT)
@pytest.mark.parametrize("kind", ["relative", "decomposed"])
def test_structured_bias_of_hidden_pairs(kind: str, run: Run) -> None:
    """Entries of a table that only hidden pairs would read."""
    if kind == "relative":
        bias: object = mmk.RelativeBias(torch.randn(HEADS, ROWS + KEYS - 1))
        leaves = {"bias 0": torch.arange(ROWS + KEYS - 1)[None, :] > ROWS - 1}
        inputs = make(torch.float32, mmk.Mask.causal(), bias)
    else:
        bias = mmk.DecomposedBias(torch.randn(B, HEADS, ROWS, 10), torch.randn(B, HEADS, ROWS, 15))
        leaves = {"bias 0": at(10, 3, 6, 7, 8, 9)}
        inputs = make(torch.float32, mmk.Mask.key_lengths(torch.tensor([90, 75])), bias)
    all_the_same(*both(inputs, run, "nan", leaves))


# Rows of three items: rows [0, 23), [23, 46), [46, 69) see keys [0, 50), [50, 100), [100, 150); row 69 sees none.
ITEM = torch.arange(ROWS) // 23
ITEM[-1] = -1


def _media() -> mmk.Mask:
    return mmk.Mask.media(ITEM.expand(B, -1), 50)


def _media_dense() -> mmk.Mask:
    visible = (ITEM[:, None] == torch.arange(KEYS)[None, :] // 50) & (torch.rand(ROWS, KEYS) < 0.7)
    visible[:, 60] = ITEM == 1  # the poisoned key: seen by every row of its item
    return mmk.Mask.dense(visible)


ITEMS: dict[str, Callable[[], mmk.Mask]] = {"media": _media, "dense": _media_dense}


def others_are_the_same(clean: dict[str, Tensor], dirty: dict[str, Tensor]) -> None:
    """Rows and keys of items 0 and 2, and the row that sees nothing."""
    rows, keys = ITEM != 1, torch.arange(KEYS) // 50 != 1
    for name, tensor in clean.items():
        kept = keys if name in ("grad key 0", "grad value 0") else rows
        same_bits(name, dirty[name][:, :, kept], tensor[:, :, kept])
        assert tensor.isfinite().all() or name == "lse", name


@pytest.mark.parametrize("items", ITEMS)
@pytest.mark.parametrize("place", ["key 0", "value 0", "query 0", "out"])
@poisons
@dtypes()
@runs(*DEFAULT)
def test_items(items: str, place: str, poison: str, run: Run, dtype: torch.dtype) -> None:
    """What is planted in item 1 stays in it, in tiles that hold rows and keys of several items; there it shows."""
    inputs = make(dtype, ITEMS[items]())
    where = at(KEYS, 2, 60) if place in ("key 0", "value 0") else at(ROWS, 2, 30)
    ends = {place: where} if place == "out" else None
    clean, dirty = both(inputs, run, poison, None if ends else {place: where}, ends)
    others_are_the_same(clean, dirty)
    hit = {
        "key 0": ["out", "lse", "grad query 0", "grad key 0", "grad value 0"],
        "value 0": ["out", "grad query 0", "grad key 0"],
        "query 0": ["out", "lse", "grad query 0", "grad key 0", "grad value 0"],
        "out": ["grad query 0", "grad key 0", "grad value 0"],
    }[place]
    keys = torch.arange(KEYS) // 50 == 1
    rows = ITEM == 1 if place in ("key 0", "value 0") else torch.arange(ROWS) == 30
    for name in hit:
        if items == "dense" and name in ("grad key 0", "grad value 0"):
            assert not dirty[name][:, :, 60].isfinite().all(-1).any(), name
            continue
        where = keys if name in ("grad key 0", "grad value 0") else rows
        spoiled = ~dirty[name][:, :, where].isfinite()
        assert (spoiled if name == "lse" else spoiled.any(-1)).all(), f"{name} hides what it has seen"


@pytest.mark.parametrize("items", ITEMS)
@runs(*NATIVE[1:])
def test_items_on_other_instruction_sets(items: str, run: Run) -> None:
    for place in ("key 0", "value 0", "query 0", "out"):
        test_items(items, place, "inf", run, torch.bfloat16)


@poisons
@runs(*DEFAULT)
def test_packed_sequences(poison: str, run: Run) -> None:
    """One sequence of a packed call is all poison; the others do not notice."""
    cuts = torch.tensor([0, 30, 50, 120], dtype=torch.int32)
    random = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(120, heads, D, generator=random) for heads in (4, 2, 2))
    inputs = Inputs("varlen", [query], [key], [value], cu_seqlens_q=cuts, cu_seqlens_k=cuts)
    sequence = torch.zeros(120, 1, 1, dtype=torch.bool)
    sequence[30:50] = True
    clean, dirty = both(inputs, run, poison, {"query 0": sequence, "key 0": sequence, "value 0": sequence})
    kept = ~sequence[:, 0, 0]
    for name, tensor in clean.items():
        same_bits(name, *((x[:, kept] if name == "lse" else x[kept]) for x in (dirty[name], tensor)))
    assert dirty["out"][30:50].isnan().all()


@poisons
@runs(*DEFAULT)
def test_segments(poison: str, run: Run) -> None:
    """The padding of one segment, and a whole segment that nobody sees."""
    inputs = make(torch.float32)
    pieces = [
        [x[0][:, :, a:b].clone() for a, b in ((0, 40), (40, 70), (70, 150))] for x in (inputs.keys, inputs.values)
    ]
    mask = mmk.Mask.key_lengths([torch.tensor([33, 40]), torch.tensor([0, 0]), None])
    inputs = replace(inputs, keys=pieces[0], values=pieces[1], mask=mask)
    first = (torch.arange(40)[None, :] >= torch.tensor([33, 40])[:, None])[:, None, :, None]
    second = torch.ones(1, 1, 30, 1, dtype=torch.bool)
    places = {"key 0": first, "value 0": first, "key 1": second, "value 1": second}
    all_the_same(*both(inputs, run, poison, places))


@runs(*DEFAULT)
def test_unmasked_empty_rows_see_the_padding(run: Run) -> None:
    """empty_rows="unmask" attends to padding by definition, so what stands there reaches those rows only."""
    stop = torch.where(torch.arange(ROWS) % 7 == 2, 0, 100)
    inputs = make(torch.float32, mmk.Mask.intervals(0, stop, empty_rows="unmask"))
    clean, dirty = both(inputs, run, "nan", {"value 0": at(KEYS, 2, slice(100, None))})
    kept = stop != 0
    for name in ("out", "lse", "grad query 0"):
        same_bits(name, dirty[name][:, :, kept], clean[name][:, :, kept])
    assert dirty["out"][:, :, ~kept].isnan().all()
