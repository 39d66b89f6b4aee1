"""Every constructor against a plain loop over pairs; the laws of `&` and of empty rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmkernels import mask_dense
from mmkernels.mask import Mask, resolve
from tests.masks import brute

CPU = torch.device("cpu")
FAST = settings(max_examples=40, deadline=None)


def dense_of(mask: Mask, shape: brute.Shape) -> torch.Tensor:
    return mask.to_dense(shape.batch, shape.heads, shape.q_len, shape.k_lens)


@pytest.mark.parametrize("maker", brute.EVERY, ids=lambda maker: maker.__name__)
@FAST
@given(data=st.data())
def test_constructor_means_its_predicate(maker, data):
    shape = data.draw(brute.shapes())
    mask, predicate = data.draw(st.composite(lambda draw: maker(draw, shape))())
    assert torch.equal(dense_of(mask, shape), brute.table(predicate, shape))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_intersection_is_and(data):
    shape = data.draw(brute.shapes())
    (a, says_a), (b, says_b) = (data.draw(brute.masks(shape)) for _ in range(2))
    expected = brute.table(says_a, shape) & brute.table(says_b, shape)
    assert torch.equal(dense_of(a & b, shape), expected)
    assert torch.equal(dense_of(b & a, shape), expected)
    assert torch.equal(dense_of(a & a, shape), brute.table(says_a, shape))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_unmask_applies_after_every_intersection(data):
    shape = data.draw(brute.shapes())
    (a, says_a), (b, says_b) = (data.draw(brute.masks(shape)) for _ in range(2))
    both = brute.table(says_a, shape) & brute.table(says_b, shape)
    asking = Mask(a.parts, "unmask")
    assert torch.equal(dense_of(asking & b, shape), brute.unmasked_empty_rows(both))
    assert torch.equal(dense_of(b & asking, shape), brute.unmasked_empty_rows(both))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), readable=st.booleans())
def test_resolved_form(data, readable):
    """Shapes, dtypes and bounds of docs/architecture.md, also where no value may be read on the host."""
    shape = data.draw(brute.shapes())
    mask, predicate = data.draw(brute.masks(shape))
    with pytest.MonkeyPatch.context() as patch:
        if not readable:
            patch.setattr(mask_dense, "values_may_be_read", lambda tensor: False)
        found = resolve(mask, batch=shape.batch, heads=shape.heads, q_len=shape.q_len, k_lens=shape.k_lens, device=CPU)
        assert torch.equal(dense_of(mask, shape), brute.table(predicate, shape))
    rows = (len(shape.k_lens), shape.batch, shape.heads, shape.q_len)
    assert (found.start is None) == (found.stop is None)
    for bound in (found.start, found.stop):
        if bound is None:
            continue
        assert bound.dtype == torch.int32
        assert bound.shape[0] == rows[0]
        assert all(size in (1, full) for size, full in zip(bound.shape, rows))
        for segment, length in zip(bound, shape.k_lens):
            assert bool(((segment >= 0) & (segment <= length)).all())
    if found.visible is not None:
        assert found.visible.dtype == torch.bool
        full = (shape.batch, shape.heads, shape.q_len, shape.k_len)
        assert all(size in (1, limit) for size, limit in zip(found.visible.shape, full))
    else:
        assert found.interval_exact is None
    if found.interval_exact is not None and bool(found.interval_exact):
        alone = Mask.intervals(found.start, found.stop)
        assert torch.equal(dense_of(alone, shape), brute.table(predicate, shape))


def test_packed_and_causal_is_the_plain_intersection():
    """Causality per sequence is packed(causal=True); packed & causal counts from the axes' first tokens."""
    cu_q, cu_k = torch.tensor([0, 2, 4]), torch.tensor([0, 3, 6])
    joined = (Mask.packed(cu_q, cu_k) & Mask.causal()).to_dense(1, 1, 4, 6)[0, 0].int().tolist()
    assert joined == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]
    own = Mask.packed(cu_q, cu_k, causal=True).to_dense(1, 1, 4, 6)[0, 0].int().tolist()
    assert own == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 1, 0]]


def test_bottom_right_uses_tensor_lengths_not_key_lengths():
    mask = Mask.causal("bottom_right") & Mask.key_lengths(torch.tensor([2]))
    assert mask.to_dense(1, 1, 2, 4)[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]


def test_segment_masks_use_the_segments_own_length():
    mask = Mask.segments([None, Mask.causal("bottom_right")])
    assert mask.to_dense(1, 1, 2, [1, 3])[0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_padded_text_and_image_stay_intervals():
    text, image = torch.tensor([2, 1]), torch.tensor([0, 3])
    found = resolve(Mask.key_lengths([text, image]), batch=2, heads=4, q_len=100, k_lens=[3, 3], device=CPU)
    assert found.visible is None
    assert (found.start.shape, found.stop.shape) == ((2, 1, 1, 1), (2, 2, 1, 1))
    assert found.stop.flatten().tolist() == [2, 1, 0, 3]


def test_cost_is_linear():
    """A key-only dense part stays (B, 1, 1, Lk), causal stays one row axis."""
    gappy = torch.tensor([[True, False, True, True]] * 3).view(3, 1, 1, 4)
    found = resolve(Mask.dense(gappy) & Mask.causal(), batch=3, heads=2, q_len=5, k_lens=[4], device=CPU)
    assert found.visible.shape == (3, 1, 1, 4)
    assert found.start.shape == (1, 3, 1, 1)
    assert found.stop.shape == (1, 3, 1, 5)
    repeated = gappy.expand(3, 2, 5, 4)
    found = resolve(Mask.dense(repeated), batch=3, heads=2, q_len=5, k_lens=[4], device=CPU)
    assert found.visible.shape == (3, 1, 1, 4)


@pytest.mark.parametrize("k_lens", [[6], [4, 2], [2, 2, 2]])
@pytest.mark.parametrize(
    "mask",
    [
        Mask.intervals(torch.tensor([-1]), torch.tensor([3])),
        Mask.intervals(torch.tensor([0]), torch.tensor([7])),
        Mask.intervals(0, torch.tensor([2**40])),
        Mask.media(torch.tensor([[3]]), 2),
        Mask.media(torch.tensor([[-2]]), 2),
        Mask.packed(torch.tensor([0, 1]), torch.tensor([0, 7])),
    ],
    ids=repr,
)
def test_values_out_of_range_reach_the_operator(mask, k_lens):
    """Such values are for the operator to refuse: resolution must not clamp them into something legal."""
    found = resolve(mask, batch=1, heads=1, q_len=1, k_lens=k_lens, device=CPU)
    lengths = torch.tensor(k_lens).view(-1, 1, 1, 1)
    legal = (found.start >= 0) & (found.stop >= 0) & (found.start <= lengths) & (found.stop <= lengths)
    assert not bool(legal.all())


class TestEmptyRows:
    def test_conflict_raises(self):
        with pytest.raises(ValueError, match="empty_rows"):
            Mask.causal(empty_rows="zero") & Mask.causal(empty_rows="unmask")
        with pytest.raises(ValueError, match="empty_rows"):
            Mask.segments([Mask.causal(empty_rows="zero")], empty_rows="unmask")

    @pytest.mark.parametrize("value", ["zero", "unmask"])
    def test_explicit_value_wins_over_none(self, value):
        asking = Mask.causal(empty_rows=value)
        assert (asking & Mask.causal()).empty_rows == value
        assert (Mask.causal() & asking).empty_rows == value
        assert (asking & asking).empty_rows == value
        assert Mask.segments([None, asking]).empty_rows == value

    def test_default_is_zero(self):
        assert not Mask.key_lengths(torch.tensor([0])).to_dense(1, 1, 2, 3).any()

    def test_unmask_sees_padding_too(self):
        assert Mask.key_lengths(torch.tensor([0]), empty_rows="unmask").to_dense(1, 1, 2, 3).all()


def test_packed_bottom_right_with_more_queries_than_keys_stays_in_range():
    """The first rows see nothing; that must not become a bound below 0."""
    mask = Mask.packed(torch.tensor([0, 4]), torch.tensor([0, 1]), causal=True, align="bottom_right")
    found = resolve(mask, batch=1, heads=1, q_len=4, k_lens=[1], device=CPU)
    assert found.start.flatten().tolist() == [0, 0, 0, 0]
    assert found.stop.flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("first_gappy", [False, True])
@pytest.mark.parametrize("second_gappy", [False, True])
def test_exactness_of_two_dense_parts_nobody_may_read(first_gappy, second_gappy, monkeypatch):
    monkeypatch.setattr(mask_dense, "values_may_be_read", lambda tensor: False)
    gappy, whole = torch.tensor([1, 0, 1, 1]).bool(), torch.tensor([1, 1, 1, 0]).bool()
    masks = [Mask.dense(gappy if is_gappy else whole) for is_gappy in (first_gappy, second_gappy)]
    for mask, k_lens in ((masks[0] & masks[1], [4]), (Mask.segments(masks), [4, 4])):
        found = resolve(mask, batch=1, heads=1, q_len=1, k_lens=k_lens, device=CPU)
        assert bool(found.interval_exact) == (not first_gappy and not second_gappy)
