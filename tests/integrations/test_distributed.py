"""A patched model in torch's parallel wrappers: DistributedDataParallel and FSDP, patched before or after."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn

pytest.importorskip("transformers", reason="transformers is not installed")

import mmkernels as mmk
from tests.integrations.cases import rows
from tests.integrations.checks import Count, check_gradients, check_outputs, error, forward, gradients, make
from tests.integrations.table import BY_NAME, SAMPLE


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def replicate(model, names=()):
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)


def shard(model, names):
    """FSDP2 around the modules of these names, inner ones first, and around the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (distributed.get_world_size(),), mesh_dim_names=("shards",))
    for name, part in reversed(list(model.named_modules())):
        if name and name in names:
            fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@rows(*SAMPLE)
def test_wrapped_in_ddp(row, group):
    model, inputs = make(row)
    mmk.patch(model)
    expected = gradients(model, forward(row, model, inputs))
    wrapped, count = replicate(model), Count()
    with count.here():
        outputs = forward(row, wrapped, inputs)
    assert count.calls == row.calls
    found = gradients(wrapped, outputs)
    assert all(torch.equal(found[f"module.{name}"], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("first", ["patched", "sharded"])
@rows(BY_NAME["BERT"], *SAMPLE[1:])  # CLIP has a parameter without axes, which FSDP refuses
def test_sharded_by_fsdp(row, first, group):
    from torch.distributed.fsdp import FSDPModule

    model, inputs = make(row)
    plain = [type(part) for part in model.modules()]
    report = mmk.patch(model)
    names = [entry.name for entry in report.replaced]
    expected = forward(row, model, inputs)
    wanted = gradients(model, expected)
    model.zero_grad(set_to_none=True)
    if first == "sharded":
        report.revert()
    shard(model, names)
    if first == "sharded":
        plain = [type(part) for part in model.modules()]
        report = mmk.patch(model)
        assert [entry.name for entry in report.replaced] == names
    count = Count()
    with count.here():
        outputs = forward(row, model, inputs)
    assert count.calls == row.calls
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    check_gradients({name: part.full_tensor() for name, part in gradients(model, outputs).items()}, wanted)
    report.revert()
    for part, cls in zip(model.modules(), plain, strict=True):
        assert isinstance(part, cls) and not getattr(part, "stands_in", False)
        assert type(part) is cls or (first == "patched" and isinstance(part, FSDPModule))
    count = Count()
    with count.here():
        found = forward(row, model, inputs)
    assert count.calls == 0
    check_outputs(found, expected)


def train(row, model, inputs):
    """Two steps; every parameter afterwards, whole, and the attention calls on mmkernels."""
    optimizer, count = torch.optim.SGD(model.parameters(), 0.01), Count()
    with count.here():
        for _ in range(2):
            gradients(model, forward(row, model, inputs))
            optimizer.step()
    return {n: getattr(p, "full_tensor", lambda p=p: p)().detach() for n, p in model.named_parameters()}, count.calls


def train_in_one_process_of_two(rank, store):
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    row = BY_NAME["BERT"]
    for wrap in (replicate, shard):
        model, inputs = make(row)
        own = {name: tensor[rank : rank + 1] for name, tensor in inputs.items()}
        served, before = copy.deepcopy(model), [p.detach().clone() for p in model.parameters()]
        names = [entry.name for entry in mmk.patch(served).replaced]
        expected, calls = train(row, wrap(model, names), own)
        found, served_calls = train(row, wrap(served, names), own)
        assert (calls, served_calls) == (0, 2 * row.calls)
        assert max(error(a, b) for a, b in zip(before, expected.values(), strict=True)) > 1e-2, "nothing was learned"
        for name, parameter in expected.items():
            assert error(found[name], parameter) < 1e-4, name
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_the_library_does(tmp_path):
    torch.multiprocessing.spawn(train_in_one_process_of_two, (tmp_path / "store",), nprocs=2)
