"""Empty rows resolved as tensors, for kernels that do not look for them: the plane of pairs is the reference's."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmkernels.ops.attention.empty_rows import unmask_empty_rows
from mmkernels.ops.attention.lowered import Lowered
from mmkernels.ops.attention.pairs import Pairs

HEADS, ROWS = 2, 7
AXES = list(itertools.product((True, False), repeat=3))


def plane(call: Lowered) -> Tensor | None:
    """Who sees whom, (B, Hq, Lq, Lk)."""
    pairs = Pairs(call)
    seen = pairs.visible(None)
    return None if seen is None else seen.expand(pairs.shape)


def check(call: Lowered, some_empty: bool = True) -> Lowered:
    """The planes agree; with ``some_empty`` the call has rows for whom that means something."""
    call = call._replace(unmask_empty_rows=True)
    found, expected = unmask_empty_rows(call), plane(call)
    assert not found.unmask_empty_rows
    torch.testing.assert_close(plane(found), expected, rtol=0, atol=0)
    if some_empty:
        assert not torch.equal(plane(call._replace(unmask_empty_rows=False)), expected)
    for name in ("start", "stop", "visible"):
        before, after = getattr(call, name), getattr(found, name)
        assert (before is None) == (after is None), name
        assert after is None or after.dtype == before.dtype, name
    return found


def padded(lengths: tuple[int, ...], batch: int = 3, **parts: Tensor) -> Lowered:
    keys = [torch.zeros(batch, 1, length, 4) for length in lengths]
    return Lowered(torch.zeros(batch, HEADS, ROWS, 4), keys, keys, **parts)


def packed(q_lens: tuple[int, ...], k_lens: tuple[int, ...], **parts: Tensor) -> Lowered:
    cu = [torch.tensor([0, *itertools.accumulate(lens)], dtype=torch.int32) for lens in (q_lens, k_lens)]
    key = torch.zeros(sum(k_lens), 1, 4)
    query = torch.zeros(sum(q_lens), HEADS, 4)
    return Lowered(query, [key], [key], cu_seqlens_q=cu[0], cu_seqlens_k=cu[1], **parts)


def intervals(shape: tuple[int, ...], longest: int) -> dict[str, Tensor]:
    """Mostly short ones: many are empty."""
    start = torch.randint(0, longest + 1, shape, dtype=torch.int32)
    stop = (start + torch.randint(-2, 3, shape, dtype=torch.int32)).clamp(0, longest)
    return {"start": start, "stop": stop}


def sizes(full: tuple[int, ...], kept: tuple[bool, ...]) -> tuple[int, ...]:
    return tuple(size if keep else 1 for size, keep in zip(full, kept, strict=True))


@pytest.mark.parametrize("lengths", [(5,), (1,), (0,), (4, 4), (3, 0, 6)], ids=str)
@pytest.mark.parametrize("kept", AXES, ids=str)
def test_intervals(lengths, kept):
    for segments in {1, len(lengths)}:
        longest = min(lengths) if segments == 1 else max(lengths)
        bounds = intervals((segments, *sizes((3, HEADS, ROWS), kept)), longest)
        bounds = {name: bound.minimum(_lengths(lengths, segments)) for name, bound in bounds.items()}
        check(padded(lengths, **bounds), some_empty=False)


def _lengths(lengths: tuple[int, ...], segments: int) -> Tensor:
    return torch.tensor(lengths if segments > 1 else [min(lengths)], dtype=torch.int32).view(-1, 1, 1, 1)


def test_intervals_cost_no_plane():
    """Memory is O(Lq): nothing is as large as the keys."""
    largest = Largest()
    call = padded((1000,), **intervals((1, 3, 1, ROWS), 1000))._replace(unmask_empty_rows=True)
    with largest:
        found = unmask_empty_rows(call)
    assert largest.elements <= 3 * ROWS and found.stop.shape == (1, 3, 1, ROWS)


class Largest(TorchDispatchMode):
    """The largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            self.elements = max(self.elements, each.numel())
        return result


@pytest.mark.parametrize("kept", [(*axes, True) for axes in AXES] + [(True, True, True, False)], ids=str)
def test_dense(kept):
    call = padded((2, 3), visible=torch.rand(sizes((3, HEADS, ROWS, 5), kept)) < 0.1)
    found = check(call, some_empty=False)
    assert found.visible.shape == call.visible.shape and found.start is None


@pytest.mark.parametrize("lengths", [(6,), (4, 0, 2)], ids=str)
@pytest.mark.parametrize("kept", AXES, ids=str)
@pytest.mark.parametrize("keys", [6, 1])
def test_both(lengths, kept, keys):
    """The dense part broadcasts along one set of axes, the intervals along another."""
    visible = torch.rand((*sizes((3, HEADS, ROWS), kept), keys)) < 0.4
    others = tuple(not keep for keep in kept)
    for axes in (others, (True, True, True), (False, False, False)):
        bounds = intervals((len(lengths), *sizes((3, HEADS, ROWS), axes)), max(lengths))
        bounds = {name: bound.minimum(_lengths(lengths, len(lengths))) for name, bound in bounds.items()}
        check(padded(lengths, visible=visible, **bounds), some_empty=False)


Q_LENS, K_LENS = (3, 0, 2, 4, 1), (2, 3, 0, 6, 1)


@pytest.mark.parametrize("kept", list(itertools.product((True, False), repeat=2)), ids=str)
def test_packed_intervals(kept):
    heads, tokens = sizes((HEADS, sum(Q_LENS)), kept)
    check(packed(Q_LENS, K_LENS, **intervals((1, 1, heads, tokens), 3)), some_empty=any(kept))


@pytest.mark.parametrize("with_intervals", [False, True])
@pytest.mark.parametrize("kept", [(*axes, True) for axes in AXES] + [(True, True, True, False)], ids=str)
def test_packed_dense(kept, with_intervals):
    shape = sizes((len(Q_LENS), HEADS, max(Q_LENS) + 1, max(K_LENS)), kept)
    bounds = intervals((1, 1, 1 if kept[1] else HEADS, sum(Q_LENS)), 4) if with_intervals else {}
    check(packed(Q_LENS, K_LENS, visible=torch.rand(shape) < 0.3, **bounds), some_empty=with_intervals)


def test_keys_of_other_sequences_do_not_count():
    """A dense part is as wide as the longest sequence: what it says beyond a row's own keys makes no row visible."""
    visible = torch.zeros(2, 1, 1, 3, dtype=torch.bool)
    visible[0, ..., 2] = True
    found = check(packed((1, 1), (2, 3), visible=visible))
    assert found.visible[0].all()


def test_nothing_to_do():
    call = padded((5,))
    assert unmask_empty_rows(call) is call
    assert unmask_empty_rows(call._replace(unmask_empty_rows=True)) == call
    for q_lens in ((), (0, 0)):
        check(packed(q_lens, (0,) * len(q_lens), **intervals((1, 1, 1, 0), 0)), some_empty=False)


def test_rows_that_the_random_masks_leave_empty():
    """The tests above mean something: their masks hide every key from many rows, not from all."""
    bounds = intervals((1, 3, HEADS, ROWS), 5)
    share = (bounds["stop"] <= bounds["start"]).float().mean()
    assert 0.2 < share < 0.9
    check(padded((5,), **bounds))
