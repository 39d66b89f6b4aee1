"""`mmk.patch(model, policy="fastest")`: what it serves, what it leaves alone, and that the report says why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mmkernels as mmk
from mmkernels.integrations import policy
from tests.integrations.rows import randomize


def encoder(**place):
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 20, 0.0, batch_first=True, **place), 2).eval()


def left_alone(report):
    return {entry.name: entry.note for entry in report.skipped if 'left alone by policy "fastest"' in entry.note}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_the_cpu_it_serves_what_the_other_policy_serves(dtype):
    wanted = mmk.patch(encoder(dtype=dtype).train()).replaced
    report = mmk.patch(encoder(dtype=dtype).train(), policy="fastest")
    assert report.replaced == wanted and len(wanted) == 4 and not report.skipped


@pytest.mark.parametrize("inside", [False, True])
def test_an_encoder_that_leaves_padding_out_is_left_alone_in_evaluation(inside):
    model, beside = encoder(), nn.MultiheadAttention(16, 4, batch_first=True)
    if inside:
        model = nn.ModuleDict({"encoder": model, "beside": beside})
    classes = [type(part) for part in model.modules()]
    report = mmk.patch(model, policy="fastest")
    assert len(left_alone(report)) == 4 and all(
        "leaves padded tokens out" in note for note in left_alone(report).values()
    )
    assert [entry.name for entry in report.replaced] == (["beside"] if inside else [])
    assert sum(type(part) is not cls for part, cls in zip(model.modules(), classes, strict=True)) == inside
    assert (model["encoder"] if inside else model).use_nested_tensor


@pytest.mark.parametrize(
    ("place", "reason"),
    [({"device": "meta"}, "it is on meta, and mmkernels was measured on the CPU only"),
     ({"dtype": torch.float64}, "it has parameters in torch.float64, which mmkernels was not measured in")],
    ids=["device", "dtype"],
)  # fmt: skip
def test_what_was_not_measured_is_left_alone(place, reason):
    model = encoder(**place)
    classes, nested = [type(part) for part in model.modules()], model.use_nested_tensor
    report = mmk.patch(model, policy="fastest")
    assert not report.replaced and [type(part) for part in model.modules()] == classes
    assert model.use_nested_tensor == nested and nested
    assert left_alone(report).keys() >= {"layers.0", "layers.0.self_attn"}
    assert all(reason in note for note in left_alone(report).values())
    assert mmk.patch(model).replaced


def test_every_module_is_judged_by_its_own_parameters():
    model = nn.ModuleList(nn.MultiheadAttention(16, 4, device=device) for device in ("cpu", "meta"))
    report = mmk.patch(model, policy="fastest")
    assert [entry.name for entry in report.replaced] == ["0"] and left_alone(report).keys() == {"1"}


def test_one_parameter_elsewhere_is_enough():
    model = nn.MultiheadAttention(16, 4)
    model.out_proj.to("meta")
    assert left_alone(mmk.patch(model, policy="fastest")).keys() == {""}


def test_without_the_library_nothing_is_faster(monkeypatch):
    monkeypatch.setattr(policy._native, "loaded", False)
    monkeypatch.setattr(policy._native, "why_not_loaded", "the C++ library was not built")
    report = mmk.patch(encoder(), policy="fastest")
    assert not report.replaced and "the C++ library was not built" in left_alone(report)["layers.1"]


def test_an_instruction_set_that_was_not_measured(monkeypatch):
    monkeypatch.setattr(policy, "_MEASURED_ISAS", ())
    report = mmk.patch(encoder(), policy="fastest")
    assert not report.replaced and "not measured with the instruction set" in left_alone(report)["layers.1"]


def test_modules_measured_to_be_slower():
    pytest.importorskip("transformers", reason="transformers is not installed")
    from transformers import PerceiverConfig
    from transformers.models.perceiver.modeling_perceiver import PerceiverSelfAttention

    config = PerceiverConfig(num_self_attention_heads=1)
    module = PerceiverSelfAttention(
        config, qk_channels=16, v_channels=24, num_heads=1, q_dim=16, kv_dim=16, is_cross_attention=False
    )
    served = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        report = mmk.patch(module.to(dtype), policy="fastest")
        served[dtype] = bool(report.replaced)
        assert served[dtype] or "one head of 261" in left_alone(report)[""]
        report.revert()
    assert served == {torch.float32: False, torch.bfloat16: False, torch.float16: True}
    assert mmk.patch(module.float()).replaced


def test_a_transformers_model_keeps_its_implementation():
    tf = pytest.importorskip("transformers", reason="transformers is not installed")
    config = tf.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37)
    model = tf.BertModel._from_config(config, attn_implementation="eager")
    assert len(mmk.patch(model, policy="fastest").replaced) == 2
    model = tf.BertModel._from_config(config, attn_implementation="eager").double()
    report = mmk.patch(model, policy="fastest")
    assert model.config._attn_implementation == "eager" and not report.replaced
    assert len(left_alone(report)) == len(report.skipped) == 2


def test_flux_in_bf16_keeps_the_product_but_not_the_attention():
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    from tests.integrations import diffusion_rows

    model = randomize(diffusion_rows.flux())
    assert not mmk.patch(model, policy="fastest").skipped
    report = mmk.patch(diffusion_rows.flux().bfloat16(), policy="fastest")
    assert {entry.kind for entry in report.replaced} == {"FluxAttention"} and len(report.replaced) == 4
    assert [entry.kind for entry in report.skipped] == ["FluxSingleTransformerBlock"] * 2
    assert len(left_alone(mmk.patch(diffusion_rows.flux().double(), policy="fastest"))) == 6
