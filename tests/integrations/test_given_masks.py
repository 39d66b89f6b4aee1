"""Masks that models hand over: what they become, at what cost, and that none is kept alive."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from mmkernels.integrations import given_masks
from mmkernels.integrations.given_masks import hidden, mask_and_bias
from mmkernels.integrations.transformers import attention_mask

LOWEST = torch.finfo(torch.float32).min


def padding():
    return torch.tensor([[True] * 6, [True] * 4 + [False] * 2])


def dense(mask, queries=6, keys=6):
    return mask.to_dense(2, 1, queries, keys)


def additive(visible):
    return torch.zeros(visible.shape).masked_fill(~visible, LOWEST)


def test_float_masks_that_only_hide_become_masks():
    visible = padding()[:, None, None, :].expand(2, 1, 6, 6)
    mask, bias = mask_and_bias(additive(visible))
    assert bias is None and mask.kind == "intervals" and torch.equal(dense(mask), visible)


@pytest.mark.parametrize("what", ["a row of nothing else", "other numbers", "float16", "a gradient"])
def test_float_masks_that_mean_more_stay_biases(what):
    given = additive(padding()[:, None, None, :])
    if what == "a row of nothing else":
        given[1] = LOWEST
    elif what == "other numbers":
        given[0, 0, 0, 0] = -1e4
    elif what == "float16":
        given = given.half().clamp(min=torch.finfo(torch.float16).min)
    else:
        given.requires_grad_()
    mask, bias = mask_and_bias(given)
    assert mask is None and torch.equal(bias, given) and bias.requires_grad == given.requires_grad


def test_a_mask_is_read_once_until_it_is_written_to():
    given = padding()[:, None, None, :].clone()
    first = mask_and_bias(given)[0]
    assert mask_and_bias(given)[0] is first
    given[0, ..., 3:] = False
    second = mask_and_bias(given)[0]
    assert second is not first and torch.equal(dense(second), given.expand(2, 1, 6, 6))


@pytest.mark.parametrize(
    "make", [lambda: padding()[:, None, None, :].clone(), lambda: additive(padding()[:, None, None])]
)
def test_a_mask_is_forgotten_with_its_tensor(make):
    given = make()
    mask_and_bias(given)
    count, watched = len(given_masks._known), weakref.ref(given)
    del given
    gc.collect()
    assert watched() is None and len(given_masks._known) == count - 1


def test_hidden_of_torch_masks():
    floats = torch.zeros(2, 6).masked_fill(~padding(), -torch.inf)
    assert torch.equal(hidden(floats), ~padding()) and hidden(floats) is hidden(floats)
    other = floats.clone()
    other[0, 0] = 0.5
    assert hidden(other) is other and hidden(None) is None
    assert hidden(padding()).dtype == torch.bool


class TestMaskFunction:
    """The mask function that transformers calls."""

    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("transformers", reason="transformers is not installed")

    def test_padding_alone_takes_the_memory_of_the_padding(self):
        from transformers.masking_utils import bidirectional_mask_function as both_ways

        given = padding()
        made = attention_mask(2, 1000, 6, mask_function=both_ways, attention_mask=given)
        assert made.shape == (2, 1, 1000, 6) and made.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
        assert torch.equal(made, given[:, None, None, :].expand(2, 1, 1000, 6))
        assert attention_mask(2, 6, 6, mask_function=both_ways, allow_is_bidirectional_skip=True) is None

    @pytest.mark.parametrize("past", [0, 3])
    @pytest.mark.parametrize("padded", [False, True])
    def test_causality_is_never_left_out_and_known_without_a_look(self, past, padded, monkeypatch):
        from transformers.masking_utils import sdpa_mask

        given = padding() if padded else None
        call = {"attention_mask": given, "q_offset": past}
        made = attention_mask(2, 6 - past, 6, allow_is_causal_skip=True, **call)
        expected = sdpa_mask(2, 6 - past, 6, allow_is_causal_skip=False, **call)
        assert torch.equal(made, expected)
        monkeypatch.setattr(given_masks, "_read", lambda given: pytest.fail("the tensor was read"))
        mask, _ = mask_and_bias(made)
        assert torch.equal(dense(mask, 6 - past), expected.expand(2, 1, -1, -1))
        assert "dense" not in mask.kind

    def test_other_functions_are_the_librarys(self):
        from transformers.masking_utils import sdpa_mask, sliding_window_causal_mask_function

        call = {"mask_function": sliding_window_causal_mask_function(3), "attention_mask": padding()}
        made = attention_mask(2, 6, 6, local_size=3, **call)
        assert torch.equal(made, sdpa_mask(2, 6, 6, allow_is_causal_skip=False, **call))
        mask, _ = mask_and_bias(made)
        assert mask.kind == "intervals" and torch.equal(dense(mask), made)
