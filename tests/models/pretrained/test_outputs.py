"""Random models of transformers and the systems that have their weights: the same outputs, both on mmkernels."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from torch.nn.functional import rms_norm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import mmkernels as mmk
from mmkernels.models import pretrained
from mmkernels.models.pretrained.table import to_theirs
from tests.integrations.checks import Count, error, gradients
from tests.models.pretrained.cases import CASES, made

TOLERANCE = 1e-5
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def on_mmkernels(model):
    mmk.integrations.transformers.register()
    model.set_attn_implementation("mmkernels")


def full_precision(model):
    """With T5's norms in the dtype of what they are given, not in fp32."""
    for part in model.modules():
        if isinstance(part, T5LayerNorm):
            part.forward = lambda x, part=part: rms_norm(x, part.weight.shape, part.weight, part.variance_epsilon)


@every_case
def test_equal_outputs_on_mmkernels(case):
    model, inputs = made(case)
    system, report = pretrained.from_transformers(model)
    assert not report.kept and not report.missing and not report.unknown
    counts = Count(), Count(), Count()
    with torch.no_grad():
        with counts[0].here():
            eager = case.theirs(model, inputs)
        on_mmkernels(model)
        with counts[1].here():
            theirs = case.theirs(model, inputs)
        with counts[2].here():
            ours = case.ours(system, inputs)
    assert [count.calls for count in counts] == [0, case.calls, case.calls]
    assert ours.keys() == theirs.keys() == eager.keys()
    for name in ours:
        assert error(ours[name], eager[name]) < TOLERANCE, name
        assert error(ours[name], theirs[name]) < TOLERANCE, name


@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 5e-4)], ids=["fp64", "fp32"])
def test_equal_gradients(case, dtype, tolerance):
    """Exactly, but for rounding: fp64 tells the mapping, fp32 runs on mmkernels' kernels."""
    model, inputs = made(case)
    system, report = pretrained.from_transformers(model)
    system.to(dtype), full_precision(model.to(dtype))
    on_mmkernels(model)
    if "pictures" in inputs:
        inputs["pictures"] = inputs["pictures"].to(dtype)
    page = pretrained.ARCHITECTURES[case.architecture]
    theirs = gradients(model, list(case.theirs(model, inputs).values()))
    ours = to_theirs(page.rows, gradients(system, list(case.ours(system, inputs).values())))
    theirs = {page.canonical(name): gradient for name, gradient in theirs.items() if name not in report.left_out}
    assert ours.keys() == theirs.keys()
    # A gradient that is 0 but for rounding (a key's bias) is measured by the others.
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        size = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((ours[name] - gradient).abs().max()) < tolerance * size, name


@every_case
def test_swapped_tensors_are_seen(case):
    model, inputs = made(case)
    with torch.no_grad():
        expected = case.theirs(model, inputs)
        for first, second in case.swaps:
            state = dict(model.state_dict())
            state[first], state[second] = state[second].clone(), state[first].clone()
            system = pretrained.from_transformers(model).system
            pretrained.load(system, state, case.architecture)
            found = case.ours(system, inputs)
            largest = max(error(found[name], expected[name]) for name in found)
            assert largest > 100 * TOLERANCE, f"{first} and {second}"


@every_case
def test_export_gives_the_same_bits(case):
    model, _ = made(case)
    system, report = pretrained.from_transformers(model)
    page, state = pretrained.ARCHITECTURES[case.architecture], model.state_dict()
    exported = pretrained.export(system, case.architecture)
    used = {page.canonical(name): name for names in report.used.values() for name in names}
    assert exported.keys() == used.keys()
    assert all(torch.equal(tensor, state[used[name]]) for name, tensor in exported.items())
    accounted = {*used.values(), *report.second_names, *report.left_out}
    assert accounted == state.keys()


def test_export_loads_into_transformers():
    case = next(case for case in CASES if case.name == "FLAN-T5")
    model, inputs = made(case)
    exported = pretrained.export(pretrained.from_transformers(model).system, "t5")
    fresh = case.build()
    missing, unexpected = fresh.load_state_dict(exported, strict=False)
    assert not unexpected and set(missing) == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    with torch.no_grad():
        found, expected = case.theirs(fresh.eval(), inputs), case.theirs(model, inputs)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_named_backend_runs_the_system():
    case, count = CASES[0], Count()
    model, inputs = made(case)
    system = pretrained.from_transformers(model, backend="reference").system
    with torch.no_grad(), count.here():
        found = case.ours(system, inputs)
        expected = case.theirs(model, inputs)
    assert count.calls == 0 and all(error(found[name], expected[name]) < TOLERANCE for name in found)
