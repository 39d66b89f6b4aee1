"""What every row must hold: the eager attention's values and gradients, and mmkernels' ops as often as said."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import mmkernels as mmk
from tests.integrations.rows import Row, randomize


class Count:
    """How many attention forwards the C++ library ran, by torch's own record of operator calls."""

    def __init__(self) -> None:
        self.calls = 0

    @contextmanager
    def here(self) -> Iterator[None]:
        with torch.autograd.profiler.profile() as profile:
            yield
        self.calls = sum("mmkernels_cpu::attention_forward" in event.name for event in profile.function_events)


def make(row: Row) -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = randomize(row.build())
    return model, row.inputs(model)


def forward(row: Row, model: nn.Module, inputs: dict[str, Any], autocast: bool = False) -> list[Tensor]:
    torch.manual_seed(1)  # ViLT draws the patches that it takes
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return row.outputs(model(**inputs), inputs)


def gradients(model: nn.Module, outputs: list[Tensor]) -> dict[str, Tensor]:
    """Of a random combination of the outputs, for every parameter; 0 where the outputs do not depend on it."""
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(out.shape, generator=generator) for out in outputs]
    model.zero_grad()
    torch.autograd.backward(outputs, cotangents)
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def serve(row: Row, model: nn.Module) -> Any:
    """Put the model on mmkernels; what comes back takes it off again."""
    if row.patched:
        return mmk.patch(model)
    mmk.integrations.transformers.register()
    model.set_attn_implementation("mmkernels")
    return lambda: model.set_attn_implementation("eager")


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected magnitude; NaN and Inf are infinite."""
    assert found.shape == expected.shape
    if not bool(found.isfinite().all()):
        return float("inf")
    return float(((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).detach())


def check_outputs(found: list[Tensor], expected: list[Tensor]) -> None:
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert error(a, b) < 1e-4, f"output {index}: {error(a, b):.2e}"


def check_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], exact: Callable[[], dict[str, Tensor]] | None = None
) -> None:
    """Equal but for rounding; else fp64 (`exact`) decides, of which `found` may be off by twice what `expected` is."""
    assert found.keys() == expected.keys()
    # A gradient that is 0 but for rounding (a key's bias) is measured by the others.
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    allowed = {name: 5e-4 * max(float(gradient.abs().max()), 1e-3 * largest) for name, gradient in expected.items()}
    for name in expected:
        assert bool(found[name].isfinite().all()), name
    wrong = [name for name in expected if distance(found[name], expected[name]) >= allowed[name]]
    truth = expected
    if wrong and exact is not None:
        truth = exact()
        naive = {name: distance(gradient, truth[name]) for name, gradient in expected.items()}
        for name in wrong:
            # Of one that is 0 in fp64 too, every digit is an error of sums that cancel: as large as any other's.
            is_zero = float(truth[name].abs().max()) < 1e-12 * largest
            allowed[name] = max(allowed[name], 2 * (max(naive.values()) if is_zero else naive[name]))
    off = {name: distance(found[name], truth[name]) for name in wrong}
    said = [f"{name}: {off[name]:.2e}, allowed {allowed[name]:.2e}" for name in wrong if off[name] >= allowed[name]]
    assert not said, "\n".join(said)


def distance(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference, in the wider dtype."""
    return float((a.to(torch.result_type(a, b)) - b).abs().max())


def exact_gradients(row: Row) -> dict[str, Tensor]:
    """Of the eager model in fp64."""
    model, inputs = make(row)
    double = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
    return gradients(model, forward(row, model.double(), double))


def check_values(row: Row) -> None:
    """fp32 forward and gradients; the report; and the model as it was afterwards, bit by bit."""
    model, inputs = make(row)
    expected = forward(row, model, inputs)
    wanted = gradients(model, expected)
    served, count = serve(row, model), Count()
    with count.here():
        found = forward(row, model, inputs)
    assert count.calls == row.calls, f"{count.calls} attention calls ran on mmkernels, expected {row.calls}\n{served}"
    got = gradients(model, found)
    check_outputs(found, expected)
    check_gradients(got, wanted, lambda: exact_gradients(row))
    served.revert() if row.patched else served()
    for a, b in zip(forward(row, model, inputs), expected, strict=True):
        assert torch.equal(a, b), "the model is not what it was"


def set_dropout(part: nn.Module, p: float) -> None:
    """Whatever the libraries call it."""
    for name in ("dropout", "attention_dropout", "activation_dropout", "drop_prob"):
        value = getattr(part, name, None)
        if isinstance(value, nn.Dropout):
            value.p = p
        elif isinstance(value, float):
            setattr(part, name, p)
    if isinstance(part, nn.Dropout):
        part.p = p


def check_dropout(row: Row) -> None:
    """In training, with all attention weights dropped (which leaves no chance): as the library does it."""
    model, inputs = make(row)
    report = mmk.patch(model)
    for part in model.modules():
        set_dropout(part, 0.0)
    for entry in report.replaced:
        set_dropout(model.get_submodule(entry.name), 1.0)
    outputs = []
    for training, served in ((False, True), (True, True), (True, False)):
        if not served:
            report.revert()
        outputs.append(forward(row, model.train(training), inputs))
    kept, found, expected = outputs
    assert any(error(a, b) > 1e-3 for a, b in zip(kept, found, strict=True)), "nothing was dropped"
    check_outputs(found, expected)


def check_autocast(row: Row) -> None:
    """Under bf16 autocast: as near to fp32 as the library's eager attention is, and on mmkernels."""
    model, inputs = make(row)
    with torch.no_grad():
        exact = forward(row, model, inputs)
        torch.backends.mha.set_fastpath_enabled(False)  # torch.nn's fused layers do not know of autocast
        eager = forward(row, model, inputs, autocast=True)
        torch.backends.mha.set_fastpath_enabled(True)
        serve(row, model)
        count = Count()
        with count.here():
            found = forward(row, model, inputs, autocast=True)
    assert count.calls == row.calls
    for a, b, e in zip(found, eager, exact, strict=True):
        assert error(a.float(), e) < 2 * error(b.float(), e) + 0.02


def check_compiled(row: Row) -> None:
    """torch.compile(fullgraph=True) of the served model gives the served model's values, on mmkernels."""
    model, inputs = make(row)
    serve(row, model)
    with torch.no_grad():
        expected = forward(row, model, inputs)
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        forward(row, compiled, inputs)
        count = Count()
        with count.here():
            found = forward(row, compiled, inputs)
    assert count.calls == (row.calls if row.compiled_calls is None else row.compiled_calls)
    check_outputs(found, expected)


def check_compiled_gradients(row: Row) -> None:
    """The same of the gradients, which one graph of a forward and one of a backward give; and of that forward."""
    model, inputs = make(row)
    serve(row, model)
    expected = forward(row, model, inputs)
    wanted = gradients(model, expected)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = forward(row, compiled, inputs)
    check_outputs(found, expected)
    check_gradients(gradients(model, found), wanted)


def check_pickled(
    row: Row, protocol: int = pickle.HIGHEST_PROTOCOL, between: Callable[[], None] = lambda: None
) -> None:
    """What comes back from a pickle of a patched model is patched, and gives the same bits.

    Args:
        between: what happens before it is read, beside the model's being taken back.
    """
    model, inputs = make(row)
    report = mmk.patch(model)
    expected = forward(row, model, inputs)
    stored = pickle.dumps(model, protocol)
    report.revert()
    between()
    other, count = pickle.loads(stored), Count()
    with count.here():
        found = forward(row, other, inputs)
    assert count.calls == row.calls
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [entry.name for entry in mmk.patch(other).replaced] == [entry.name for entry in report.replaced]
