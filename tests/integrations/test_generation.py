"""Decoding with caches: the same logits, step by step, as with the library's eager attention."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.integrations.checks import Count, make, serve
from tests.integrations.table import BY_NAME

FIRST = {"decoder_input_ids", "decoder_attention_mask", "use_cache", "labels"}


def steps(model, inputs, **options):
    given = {name: value for name, value in inputs.items() if name not in FIRST}
    torch.manual_seed(0)
    out = model.generate(
        **given, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True,
        **options,
    )  # fmt: skip
    return torch.stack(out.logits)


@pytest.mark.slow
@pytest.mark.parametrize("name, cache", [
    *[(name, "dynamic") for name in ("Llava", "Gemma 3", "mllama", "BLIP captioning", "Qwen2-VL")],
    *[(name, "static") for name in ("Llava", "Gemma 3", "Qwen2-VL")],
])  # fmt: skip
def test_generation(name, cache):
    model, inputs = make(BY_NAME[name])
    expected = steps(model, inputs, cache_implementation=cache)
    serve(BY_NAME[name], model)
    count = Count()
    with count.here():
        found = steps(model, inputs, cache_implementation=cache)
    assert count.calls > BY_NAME[name].calls  # more than the first step
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_image_is_projected_once_into_the_cache():
    model, inputs = make(BY_NAME["BLIP captioning"])
    serve(BY_NAME["BLIP captioning"], model)
    given = {name: value for name, value in inputs.items() if name not in FIRST}
    out = model.generate(**given, max_new_tokens=4, min_new_tokens=4, return_dict_in_generate=True)
    assert out.past_key_values.cross_attention_cache.get_seq_length() == 1 + 3 * 3  # patches of 10 x 10 pixels
