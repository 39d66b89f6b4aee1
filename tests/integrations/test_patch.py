"""`mmk.patch`: what it reports, what it leaves alone, and the way back."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import mmkernels as mmk
from tests.integrations.checks import Count
from tests.integrations.rows import randomize

WIDTH = 16


class Own(nn.Module):
    """Attention that nobody knows."""

    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ x


class Functional(nn.Module):
    """Attention by torch's function."""

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


class Decorated(nn.Module):
    """The same in a function that is not the class's own."""

    @torch.no_grad()
    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


class Derived(nn.MultiheadAttention):
    """Something else, perhaps."""


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 4, 20, 0.0, batch_first=True), 2)
        self.own, self.functional, self.decorated = Own(), Functional(), Decorated()
        self.derived = Derived(WIDTH, 4, batch_first=True)

    def forward(self, x, padding=None):
        x = self.functional(self.own(self.encoder(x, src_key_padding_mask=padding)))
        return self.derived(x, x, x, need_weights=False)[0]


def model():
    return randomize(Model())


def inputs():
    return torch.randn(2, 5, WIDTH), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def test_report_names_what_runs_and_what_does_not():
    report = mmk.patch(model())
    kinds = sorted(entry.kind for entry in report.replaced)
    assert kinds == ["Functional"] + ["MultiheadAttention"] * 2 + ["TransformerEncoderLayer"] * 2
    notes = {entry.name: entry.note for entry in report.skipped}
    assert notes.keys() == {"own", "decorated", "derived"}
    assert "softmax of its own" in notes["own"] and "override_sdpa" in notes["decorated"]
    assert "derives from MultiheadAttention" in notes["derived"]
    text = str(report)
    assert "replaced: 5" in text and "skipped: 3" in text and "encoder.layers.0.self_attn" in text
    assert isinstance(report, mmk.PatchReport) and repr(report) == "PatchReport(replaced=5, skipped=3)"


def test_revert_gives_back_every_class_and_bit():
    given, (x, _) = model(), inputs()
    before = given(x)
    classes = [type(part) for part in given.modules()]
    nested = given.encoder.use_nested_tensor
    parameters = {name: id(p) for name, p in given.named_parameters()}
    report = mmk.patch(given)
    assert [type(part) for part in given.modules()] != classes and not given.encoder.use_nested_tensor
    assert {name: id(p) for name, p in given.named_parameters()} == parameters
    assert not torch.equal(given(x), before) and torch.allclose(given(x), before, atol=1e-4)
    report.revert()
    report.revert()
    assert [type(part) for part in given.modules()] == classes and given.encoder.use_nested_tensor == nested
    assert torch.equal(given(x), before)
    assert not any("backend" in part.__dict__ for part in given.modules())


def test_without_gradients_torchs_fused_layer_is_not_taken():
    given, (x, padding) = model(), inputs()
    with torch.no_grad():
        expected = given.encoder(x, src_key_padding_mask=padding)
        mmk.patch(given)
        count = Count()
        with count.here():
            found = given.encoder(x, src_key_padding_mask=padding)
    assert count.calls == 2
    torch.testing.assert_close(found[~padding], expected[~padding], rtol=1e-4, atol=1e-5)


def test_patching_twice_says_so_and_undoes_its_own_part():
    given = model()
    first, second = mmk.patch(given), mmk.patch(given)
    assert [entry.name for entry in second.replaced] == [entry.name for entry in first.replaced]
    assert {entry.note for entry in second.replaced} == {"served before"}
    second.revert()
    assert given.encoder.layers[0].self_attn.stands_in
    first.revert()
    assert type(given.encoder.layers[0].self_attn) is nn.MultiheadAttention


def test_a_copy_is_patched_too_and_hooks_still_fire():
    given, (x, _) = model(), inputs()
    fired = []
    given.encoder.layers[0].self_attn.register_forward_hook(lambda *_: fired.append(1))
    report = mmk.patch(given)
    other = copy.deepcopy(given)
    assert torch.equal(other(x), given(x)) and len(fired) >= 1
    report.revert()
    assert type(given.encoder.layers[0].self_attn) is nn.MultiheadAttention
    assert type(other.encoder.layers[0].self_attn) is not nn.MultiheadAttention


def test_a_module_alone():
    given, (x, _) = randomize(nn.MultiheadAttention(WIDTH, 4, batch_first=True)), inputs()
    expected = given(x, x, x)
    report = mmk.patch(given)
    assert [entry.name for entry in report.replaced] == [""] and "(the model)" in str(report)
    for a, b in zip(given(x, x, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Closing(Functional):
    """Beside `super()`, whose part stays torch's: the function by its own name, with defaults."""

    def forward(self, x, scale=0.5, *, causal=True):
        return super().forward(x) + scaled_dot_product_attention(x, x, x, is_causal=causal, scale=scale)


@pytest.mark.parametrize("cls", [Functional, Closing])
def test_any_class_that_calls_torchs_function(cls):
    module, x = cls(), torch.randn(2, 4, 7, 8)
    expected = module(x)
    mmk.patch(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    inlined = torch.compile(nn.Sequential(module), fullgraph=True, backend="aot_eager")
    for run in (module, compiled, inlined):
        run(x)
        count = Count()
        with count.here():
            found = run(x)
        assert count.calls == 1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got int"):
        mmk.patch(3)
    with pytest.raises(ValueError, match='policy must be "mmkernels" or "fastest", got \'fast\''):
        mmk.patch(model(), policy="fast")


def test_importing_and_patching_torch_modules_loads_no_other_library():
    code = (
        "import sys, torch, mmkernels as mmk; assert not any('integrations' in name for name in sys.modules); "
        "mmk.integrations.transformers; mmk.patch(torch.nn.MultiheadAttention(8, 2)); "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
