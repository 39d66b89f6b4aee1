"""OpenVINO on the CPU: its attention operator, and the plain graph that its optimiser fuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.attention.call import Call, make_call
from bench.attention.problems import Problem
from bench.attention.providers.dense import Dense, Folded, fp32_forward_only
from bench.case import Case
from bench.provider import Prepared, installed, those_made

WAYS = ("plain graph", "ScaledDotProductAttention")


class OpenVino:
    """Ways: MatMul-Softmax-MatMul, ScaledDotProductAttention. fp32 is asked for: bf16 is its default where it can."""

    name = "OpenVINO"

    def version(self) -> str | None:
        """Of the package."""
        return installed("openvino")

    def instruction_set(self) -> str:
        """The kernels that its compiled graph names."""
        call = make_call(Problem("small", (64,), (64,)), "float32", False)
        names = set()
        for way in WAYS:
            compiled = _compiled(Folded.of(Dense.of(call)), way)[0]
            for node in compiled.get_runtime_model().get_ops():
                info = node.get_rt_info()
                if "primitiveType" in info:
                    names.add(str(info["primitiveType"].value))
        named = sorted(name for name in names if "avx" in name or "sse" in name or "gemm" in name)
        return ", ".join(named) or "not named"

    def why_not(self, case: Case) -> str | None:
        """Forward in fp32."""
        return fp32_forward_only(case)

    def prepare(self, call: Call) -> list[Prepared]:
        """Models that compile; raises if none does."""
        folded = Folded.of(Dense.of(call))
        return those_made((way, partial(_prepared, folded, way)) for way in WAYS)


def _compiled(f: Folded, way: str) -> tuple[Any, list[Tensor]]:
    """The compiled model and its inputs."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    tensors = [f.query, f.key, f.value]
    causal = way != "plain graph" and f.causal and f.bias is None
    if f.added is not None and not causal:
        tensors.append(f.added)
    parameters = [op.parameter(list(x.shape), np.float32) for x in tensors]
    scale = op.constant(np.float32(f.scale))
    if way == "plain graph":
        logits = op.multiply(op.matmul(parameters[0], parameters[1], False, True), scale)
        if f.added is not None:
            logits = op.add(logits, parameters[3])
        out = op.matmul(op.softmax(logits, -1), parameters[2], False, False)
    else:
        mask = parameters[3] if len(parameters) > 3 else op.constant(np.float32(0.0))
        out = op.scaled_dot_product_attention(*parameters[:3], mask, scale, causal=causal)
    model = ov.Model([out], parameters, "attention")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return ov.Core().compile_model(model, "CPU", config), tensors


def _prepared(f: Folded, way: str) -> Prepared:
    import numpy as np
    import openvino as ov

    compiled, tensors = _compiled(f, way)
    request = compiled.create_infer_request()
    held = [np.ascontiguousarray(x.numpy()) for x in tensors]
    for index, array in enumerate(held):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
    request.infer()

    def results(_: Any) -> dict[str, Tensor]:
        return f.results(torch.from_numpy(request.get_output_tensor(0).data.copy()))

    def run() -> object:
        request.infer()
        return held  # kept alive: the request reads their memory

    return Prepared(run, results, way)
