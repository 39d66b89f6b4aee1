"""The rules of the ops: derivatives of every order, vmap, autocast, compile, export, fakes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import mmkernels as mmk
from mmkernels.backend import BackendNotAvailable
from tests.backends import DEFAULT, default_runs, runs
from tests.contrastive.naive import embeddings, fused, naive, targets_of

OPS = torch.ops.mmkernels
SETTINGS = {
    "softmax": ("pairs", "softmax", 0.0, "mean"),
    "softmax, smoothed, several": ("several", "softmax", 0.1, "none"),
    "sigmoid": ("pairs", "sigmoid", 0.0, "none"),
    "sigmoid, smoothed, index": ("index", "sigmoid", 0.1, "mean"),
}


def call_of(name, rows=5):
    positives, kind, smoothing, reduction = SETTINGS[name]
    return targets_of(positives, rows, rows), kind, smoothing, reduction


def small(rows=5):
    """Operands whose probabilities are not all 0 or 1, so that finite differences see them."""
    image, text, scale, bias = embeddings(rows, rows, 3)
    return image, text, (scale.detach() / 10).requires_grad_(), (bias.detach() / 10).requires_grad_()


def loss_of(call, backend=None):
    """The loss as a function of the four tensors."""
    return lambda *tensors: fused(tensors, *call, backend=backend)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradcheck(name):
    call, operands = call_of(name), small()
    function = loss_of(call)
    assert torch.autograd.gradcheck(function, operands, check_batched_grad=True)
    assert torch.autograd.gradcheck(function, operands, check_forward_ad=True, check_backward_ad=False)
    assert torch.autograd.gradgradcheck(function, operands)


@pytest.mark.parametrize("name", SETTINGS)
def test_raw_op_gradcheck(name):
    call, operands = call_of(name), small()
    function = lambda *tensors: OPS.contrastive_loss_forward(*tensors, *call, None)[0]  # noqa: E731
    assert torch.autograd.gradcheck(function, operands)
    assert torch.autograd.gradgradcheck(function, operands)


@pytest.mark.parametrize("name", ["softmax, smoothed, several", "sigmoid"])
def test_backward_op_is_differentiable(name):
    call, operands = call_of(name), small()

    def function(grad, *tensors):
        with torch.no_grad():
            _, *stats = OPS.contrastive_loss_forward(*tensors, *call, None)
        return OPS.contrastive_loss_backward(grad, *tensors, *call, *stats, [True] * 4, None)

    grad = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (grad, *operands))


@runs(*DEFAULT)
@pytest.mark.parametrize("name", ["softmax, smoothed, several", "sigmoid"])
def test_opcheck(name, run):
    call = call_of(name)
    operands = embeddings(5, 5, 3, torch.float32)
    with run.active() as backend:
        report = torch.library.opcheck(OPS.contrastive_loss_forward.default, (*operands, *call, backend))
    assert set(report.values()) == {"SUCCESS"}
    with torch.no_grad():
        loss, *stats = OPS.contrastive_loss_forward(*operands, *call, backend)
    grad = torch.randn_like(loss).requires_grad_()
    for needs in ([True] * 4, [True, False, False, True]):
        arguments = (grad, *operands, *call, *stats, needs, backend)
        report = torch.library.opcheck(OPS.contrastive_loss_backward.default, arguments)
        assert set(report.values()) == {"SUCCESS"}


@default_runs()
@pytest.mark.parametrize("name", SETTINGS)
def test_fake_agrees_with_real(name, run):
    """Shapes, dtypes and strides of every output of both ops."""
    call, operands = call_of(name), embeddings(5, 5, 3, torch.bfloat16)
    with run.active() as backend, torch.no_grad():
        loss, *stats = OPS.contrastive_loss_forward(*operands, *call, backend)
        backward = (torch.ones_like(loss), *operands, *call, *stats, [True, False, True, True], backend)
        real = [loss, *stats, *OPS.contrastive_loss_backward(*backward)]
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            forward, backward = torch.utils._pytree.tree_map_only(
                torch.Tensor, lambda t: mode.from_tensor(t.detach()), ((*operands, *call, backend), backward)
            )
            fake = [*OPS.contrastive_loss_forward(*forward), *OPS.contrastive_loss_backward(*backward)]
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


@default_runs()
@pytest.mark.parametrize("name", SETTINGS)
def test_double_backward(name, run):
    """A gradient penalty on top of the backend's forward: second derivatives come from the reference."""
    call, tensors, found = call_of(name), small(), []
    for dtype in (torch.float32, torch.float64):
        operands = [t.detach().to(dtype).requires_grad_() for t in tensors]
        with run.active() as backend:
            loss = fused(operands, *call, backend=backend) if dtype == torch.float32 else naive(*operands, *call)
            options = {"materialize_grads": True, "allow_unused": True}
            first = torch.autograd.grad(loss.square().sum(), operands, create_graph=True, **options)
            penalty = sum(g.square().sum() for g in first)
            found.append((*first, *torch.autograd.grad(penalty, operands, **options)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


@runs(*DEFAULT)
@pytest.mark.parametrize("name", ["softmax, smoothed, several", "sigmoid"])
def test_checkpoint_gives_the_same_gradients(name, run):
    call, operands = call_of(name), embeddings(5, 5, 3, torch.float32)
    with run.active() as backend:
        function = loss_of(call, backend)
        options = {"materialize_grads": True, "allow_unused": True}
        kept, again = (
            torch.autograd.grad(loss.sum(), operands, **options)
            for loss in (function(*operands), checkpoint(function, *operands, use_reentrant=False))
        )
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_functorch_agrees_with_plain_torch(name):
    targets, *rest = call_of(name)
    operands = tuple(t.detach() for t in small())
    function = lambda *tensors: fused(tensors, targets, *rest).sum()  # noqa: E731
    twin = lambda *tensors: naive(*tensors, targets, *rest).sum()  # noqa: E731
    tangents = tuple(torch.randn_like(t) for t in operands)
    for ours, theirs in zip(
        torch.func.jvp(function, operands, tangents), torch.func.jvp(twin, operands, tangents), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.func.grad(function, (0, 2))(*operands), torch.func.grad(twin, (0, 2))(*operands))
    torch.testing.assert_close(torch.func.hessian(function)(*operands), torch.func.hessian(twin)(*operands))


def test_raw_op_raises_where_torch_func_differentiates():
    image, text, scale, bias = (t.detach() for t in small())
    call = call_of("softmax")
    function = lambda image: OPS.contrastive_loss_forward(image, text, scale, bias, *call, None)[0]  # noqa: E731
    with pytest.raises(NotImplementedError, match=r"mmkernels\.contrastive_loss"):
        torch.func.grad(function)(image)
    with pytest.raises(NotImplementedError, match=r"mmkernels\.contrastive_loss"):
        torch.func.jvp(function, (image,), (image,))


def test_named_backend_is_not_replaced_by_the_reference():
    image, text, *_ = small()
    with pytest.raises(BackendNotAvailable, match=r"no torch\.float64 kernels"):
        mmk.contrastive_loss(image, text, 1.0, backend="cpu")
    with pytest.raises(ValueError, match=r"torch\.func"):
        torch.func.grad(lambda x: mmk.contrastive_loss(x, text, 1.0, backend="cpu"))(image.detach())


@runs(*DEFAULT)
@pytest.mark.parametrize("in_dims", [(0, 1, None, None), (None, 0, 0, None), (2, 0, 0, 0)])
@pytest.mark.parametrize("name", SETTINGS)
def test_vmap(name, in_dims, run):
    call, operands = call_of(name), [t.detach().float().requires_grad_() for t in small()]
    with run.active() as backend:
        function = loss_of(call, backend)
    stacked = [t if d is None else torch.stack([t, 2 * t, -t], d) for t, d in zip(operands, in_dims, strict=True)]
    found = torch.vmap(function, in_dims)(*stacked)
    entries = [[t if d is None else t.select(d, j) for t, d in zip(stacked, in_dims, strict=True)] for j in range(3)]
    expected = torch.stack([function(*entry) for entry in entries])
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found.sum(), operands, retain_graph=True, materialize_grads=True, allow_unused=True)
    theirs = torch.autograd.grad(expected.sum(), operands, materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@runs(*DEFAULT)
@pytest.mark.parametrize("route", ["eager", "op"])
def test_autocast(route, run):
    """Embeddings go to bf16, scale and bias stay in fp32, and so does the loss."""
    operands = embeddings(5, 5, 8, torch.float32)
    call = call_of("sigmoid")
    with run.active() as backend:
        expected = fused([operands[0].bfloat16(), operands[1].bfloat16(), *operands[2:]], *call, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        if route == "eager":
            found = fused(operands, *call, backend=backend)
        else:
            found = OPS.contrastive_loss_forward(*operands, *call, backend)[0]
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    found.sum().backward()
    assert all(t.grad.dtype == torch.float32 and t.grad.isfinite().all() for t in operands)


@runs(*DEFAULT)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["softmax, smoothed, several", "sigmoid"])
def test_compile_fullgraph(name, dynamic, run):
    torch._dynamo.reset()
    call, operands = call_of(name), embeddings(5, 5, 3, torch.float32)
    with run.active() as backend:
        function = lambda *tensors: fused(tensors, *call, backend=backend).sum()  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    ours, theirs = compiled(*operands), function(*operands)
    torch.testing.assert_close(ours, theirs)
    options = {"materialize_grads": True, "allow_unused": True}
    for a, b in zip(
        torch.autograd.grad(ours, operands, **options), torch.autograd.grad(theirs, operands, **options), strict=True
    ):
        torch.testing.assert_close(a, b)


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, image, text, targets):
        return mmk.contrastive_loss(image, text, self.log_scale.exp(), targets=targets)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    model, arguments = Loss(), (torch.randn(5, 4), torch.randn(6, 4), torch.arange(5))
    rows, columns = torch.export.Dim("rows", min=2), torch.export.Dim("columns", min=2)
    shapes = ({0: rows}, {0: columns}, {0: rows})
    program = torch.export.export(model, arguments, dynamic_shapes=shapes, strict=strict)
    assert any("contrastive_loss_forward" in str(node.target) for node in program.graph.nodes)
    larger = (torch.randn(9, 4), torch.randn(7, 4), torch.arange(9) % 7)
    torch.testing.assert_close(program.module()(*larger), model(*larger))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_meta_tensors(kind):
    image = torch.empty(4, 3, device="meta")
    assert mmk.contrastive_loss(image, image, 2.0, kind=kind, reduction="none").shape == (4,)
