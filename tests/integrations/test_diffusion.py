"""Models of diffusers on mmkernels, and in which form their attention reaches it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("diffusers", reason="diffusers is not installed")

from diffusers.models import attention_processor
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers import transformer_flux, transformer_wan

import mmkernels as mmk
from mmkernels.integrations.stand_ins import diffusion
from tests.integrations import checks, diffusion_rows
from tests.integrations.cases import compiled_rows, rows
from tests.integrations.checks import Count, error, forward, make
from tests.integrations.rows import randomize

ROWS = {row.name: row for row in diffusion_rows.ROWS}


@rows(*diffusion_rows.ROWS)
def test_values_and_gradients(row):
    checks.check_values(row)


@rows(*diffusion_rows.ROWS, sample=False)
def test_autocast(row):
    checks.check_autocast(row)


@compiled_rows(*diffusion_rows.ROWS)
def test_compiled_in_one_graph(row):
    checks.check_compiled(row)


@compiled_rows(*diffusion_rows.ROWS)
def test_gradients_of_one_graph(row):
    checks.check_compiled_gradients(row)


@rows(*diffusion_rows.ROWS)
def test_pickled_whole(row):
    checks.check_pickled(row)


class Concatenations(TorchDispatchMode):
    """How many tensors of heads, (B, H, L, D) or (B, L, H, D), and of features, (B, L, C), were concatenated."""

    def __init__(self):
        super().__init__()
        self.heads = self.features = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.cat.default and args[0][0].is_floating_point():
            self.heads += args[0][0].dim() == 4
            self.features += args[0][0].dim() == 3 and args[1:] in ((2,), (-1,))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "heads", "features"), [("SD3", 6, 0), ("FLUX", 6, 2), ("Qwen-Image", 6, 0)])
def test_nothing_is_concatenated(name, heads, features):
    model, inputs = make(ROWS[name])
    seen = []
    for _ in range(2):
        with torch.no_grad(), Concatenations() as concatenations:
            forward(ROWS[name], model, inputs)
        seen.append((concatenations.heads, concatenations.features))
        mmk.patch(model)
    assert seen == [(heads, features), (0, 0)]


def test_padding_of_the_text_is_a_mask_of_its_segment(monkeypatch):
    masks = []

    def record(*operands, mask=None, bias=None):
        masks.append((mask, bias))
        return mmk.joint_attention(*operands, mask=mask, bias=bias)

    monkeypatch.setattr(diffusion, "joint_attention", record)
    model, inputs = make(ROWS["Qwen-Image"])
    mmk.patch(model)
    forward(ROWS["Qwen-Image"], model, inputs)
    assert len(masks) == 2
    for mask, bias in masks:
        text, image = mask.parts[0].masks
        assert (
            bias is None and image is None and text.kind == "intervals" and text.parts[0].tensor.shape[:3] == (2, 1, 1)
        )


class Adapter(nn.Linear):
    """Anything that is more than a product with its weight."""

    def forward(self, x):
        return super().forward(x) * 1.5


@pytest.mark.parametrize("change", ["class", "hook"])
def test_flux_keeps_its_own_product_where_it_is_more_than_one(change):
    model, inputs = make(ROWS["FLUX"])
    for block in model.single_transformer_blocks:
        if change == "class":
            block.proj_out.__class__ = Adapter
        else:
            block.proj_out.register_forward_hook(lambda module, args, out: out * 1.5)
    (expected,) = forward(ROWS["FLUX"], model, inputs)
    mmk.patch(model)
    with torch.no_grad(), Concatenations() as concatenations:
        (found,) = forward(ROWS["FLUX"], model, inputs)
    assert error(found, expected) < 1e-4
    assert (concatenations.heads, concatenations.features) == (0, 2)


def test_fused_projections():
    model, inputs = make(ROWS["FLUX"])
    (expected,) = forward(ROWS["FLUX"], model, inputs)
    model.fuse_qkv_projections()
    mmk.patch(model)
    count = Count()
    with count.here():
        (found,) = forward(ROWS["FLUX"], model, inputs)
    assert count.calls == 6 and error(found, expected) < 1e-4


def test_attention_in_shards_stays_the_librarys(monkeypatch):
    model, inputs = make(ROWS["FLUX"])
    mmk.patch(model)
    shards = object()
    for module in model.modules():
        if hasattr(module, "processor"):
            module.processor._parallel_config = shards
    given = []

    def record(query, key, value, **call):
        given.append(call["parallel_config"])
        return value

    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", record)
    forward(ROWS["FLUX"], model, inputs)
    assert given == [shards] * 4


def test_a_dispatched_call_in_shards_stays_the_librarys(monkeypatch):
    given = []

    def record(query, key, value, *call, backend, parallel_config):
        given.append(parallel_config)
        return value

    monkeypatch.setattr(transformer_wan, "dispatch_attention_fn", record)
    diffusion.dispatched.cache_clear()
    module = randomize(transformer_wan.WanAttention(32, 2, 16, processor=transformer_wan.WanAttnProcessor()))
    mmk.patch(module)
    diffusion.dispatched.cache_clear()
    x = torch.randn(2, 5, 32)
    count = Count()
    with count.here():
        module(x)
    module.processor._parallel_config = shards = object()
    module(x)
    assert count.calls == 1 and given == [shards]


@pytest.mark.parametrize("made", ["FLUX", "FLUX, one stream", "Wan"])
@pytest.mark.parametrize("kind", ["keys", "pairs", "added"])
def test_joint_and_dispatched_attention_under_a_mask(made, kind):
    if made == "FLUX":
        module = transformer_flux.FluxAttention(32, 2, 16, added_kv_proj_dim=20, out_dim=32, context_pre_only=False)
        x, text, keys = torch.randn(2, 5, 32), torch.randn(2, 4, 20), 9
    elif made == "FLUX, one stream":
        module = transformer_flux.FluxAttention(32, 2, 16, out_dim=32, pre_only=True)
        x, text, keys = torch.randn(2, 9, 32), None, 9
    else:
        processor = transformer_wan.WanAttnProcessor()
        module = transformer_wan.WanAttention(32, 2, 16, cross_attention_dim_head=16, processor=processor)
        x, text, keys = torch.randn(2, 9, 32), torch.randn(2, 6, 32), 6
    mask = torch.rand(2, keys) < 0.6
    mask[:, 0] = True
    mask = {"keys": mask, "pairs": mask[:, None, None] & (torch.rand(1, 1, 9, keys) < 0.8), "added": 3.0 * mask}[kind]
    if kind == "pairs":
        mask[..., 0] = True
    randomize(module)
    expected = module(x, text, mask)
    mmk.patch(module)
    count = Count()
    with count.here():
        found = module(x, text, mask)
    assert count.calls == (2 if made == "FLUX" else 1)
    for a, b in zip(found, expected, strict=True):
        assert error(a, b) < 1e-4


def masks(heads):
    hidden = torch.zeros(2, 1, 7)
    hidden[1, :, 4:] = -10000.0
    each = torch.randn(2 * heads, 1, 7)
    return {"none": None, "padding": hidden, "of each head": each, "bool": hidden == 0, "rows": torch.randn(2, 12, 7)}


@pytest.mark.parametrize("name", ["none", "padding", "of each head", "bool", "rows"])
def test_unet_attention_over_text_with_any_mask(name):
    module = randomize(Attention(16, cross_attention_dim=20, heads=2, dim_head=8, cross_attention_norm="layer_norm"))
    x, text, mask = torch.randn(2, 12, 16), torch.randn(2, 7, 20), masks(2)[name]
    expected = module(x, text, mask)
    mmk.patch(module)
    count = Count()
    with count.here():
        found = module(x, text, mask)
    assert count.calls == 1 and error(found, expected) < 1e-4


def test_attention_of_a_vae_over_its_grid():
    module = randomize(
        Attention(32, heads=2, dim_head=16, bias=True, norm_num_groups=4, residual_connection=True,
                  rescale_output_factor=2.0, spatial_norm_dim=4, qk_norm="layer_norm")
    )  # fmt: skip
    x, latents = torch.randn(2, 32, 3, 5), torch.randn(2, 4, 3, 5)
    expected = module(x, temb=latents)
    mmk.patch(module)
    found = module(x, temb=latents)
    assert found.shape == x.shape and error(found, expected) < 1e-4


def test_a_processor_that_another_model_shares_is_left_alone():
    processor = attention_processor.AttnProcessor2_0()
    ours, other = (Attention(16, heads=2, dim_head=8, processor=processor) for _ in range(2))
    report = mmk.patch(ours)
    assert other.processor is processor and type(processor) is attention_processor.AttnProcessor2_0
    assert ours.processor is not processor and isinstance(ours.processor, attention_processor.AttnProcessor2_0)
    assert [entry.note for entry in mmk.patch(ours).replaced] == ["served before"]
    report.revert()
    assert ours.processor is processor


def test_report_names_processors():
    known, sliced = attention_processor.AttnProcessor2_0(), attention_processor.SlicedAttnProcessor(1)
    model = nn.ModuleList(Attention(16, heads=2, dim_head=8, processor=one) for one in (known, sliced))
    report = mmk.patch(model)
    assert [(entry.name, entry.kind) for entry in report.replaced] == [("0", "Attention")]
    assert "AttnProcessor2_0" in report.replaced[0].note
    assert [(entry.name, "SlicedAttnProcessor is not known" in entry.note) for entry in report.skipped] == [("1", True)]


def test_a_processor_that_calls_torchs_function():
    module = randomize(Attention(16, heads=2, dim_head=8, processor=attention_processor.CogVideoXAttnProcessor2_0()))
    x, text = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    expected = module(x, text)
    mmk.patch(module)
    count = Count()
    with count.here():
        found = module(x, text)
    assert count.calls == 1 and all(error(a, b) < 1e-4 for a, b in zip(found, expected, strict=True))


def test_attention_inside_a_served_block_is_still_reported():
    model, _ = make(ROWS["FLUX"])
    model.single_transformer_blocks[1].attn.set_processor(attention_processor.SlicedAttnProcessor(1))
    report = mmk.patch(model)
    assert [entry.name for entry in report.skipped] == ["single_transformer_blocks.1.attn"]
    assert sum(entry.kind == "FluxSingleTransformerBlock" for entry in report.replaced) == 2
