"""ONNX Runtime on the CPU: its attention operators, and the plain graph that its optimiser fuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.attention.call import Call
from bench.attention.providers.dense import Dense, Folded, fp32_forward_only
from bench.case import Case
from bench.provider import Prepared, installed, those_made


class OnnxRuntime:
    """Ways: MatMul-Softmax-MatMul, Attention of ONNX, MultiHeadAttention of com.microsoft. Buffers are bound."""

    name = "ONNX Runtime"

    def version(self) -> str | None:
        """Needs onnx too, to write the graphs."""
        return installed("onnxruntime") if installed("onnx") else None

    def instruction_set(self) -> str:
        """MLAS knows no setting that limits it, and does not say what it chose."""
        return "its own choice: it cannot be limited, and does not say"

    def why_not(self, case: Case) -> str | None:
        """Forward in fp32."""
        return fp32_forward_only(case)

    def prepare(self, call: Call) -> list[Prepared]:
        """Sessions that can be made; raises if none can."""
        folded = Folded.of(Dense.of(call))
        return those_made((graph.way, partial(_session, folded, graph)) for graph in _graphs(folded))


@dataclass
class _Graph:
    way: str
    nodes: list[Any]
    inputs: dict[str, Tensor]
    out_shape: tuple[int, ...]
    rows_first: bool = False
    """The output is (B, L, H x Dv)."""


def _graphs(f: Folded) -> Iterator[_Graph]:
    from onnx import helper

    named = {"query": f.query, "key": f.key, "value": f.value}
    if f.added is not None:
        named["added"] = f.added
    batch, heads, rows, _ = f.query.shape
    out = (batch, heads, rows, f.value.shape[-1])
    scale = helper.make_node("Constant", [], ["scale"], value_float=f.scale)
    nodes = [
        scale,
        helper.make_node("Transpose", ["key"], ["key_t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["query", "key_t"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["scaled"]),
    ]
    last = "scaled"
    if f.added is not None:
        nodes.append(helper.make_node("Add", ["scaled", "added"], ["biased"]))
        last = "biased"
    nodes += [
        helper.make_node("Softmax", [last], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "value"], ["out"]),
    ]
    yield _Graph("plain graph", nodes, named, out)
    causal: dict[str, Any] = {"is_causal": 1} if f.causal and f.bias is None else {}
    inputs = [name for name in named if not (causal and name == "added")]
    attention = helper.make_node("Attention", inputs, ["out"], scale=f.scale, **causal)
    yield _Graph("Attention", [attention], {name: named[name] for name in inputs}, out)
    if f.added is not None and f.added.shape[1] not in (1, heads):
        return
    flat = f.query.transpose(1, 2).flatten(2).contiguous()
    inputs = ["query", "key", "value", *(["", "", "added"] if f.added is not None else [])]
    fused = helper.make_node(
        "MultiHeadAttention", inputs, ["out"], domain="com.microsoft", num_heads=heads, scale=f.scale
    )
    shape = (batch, rows, heads * f.value.shape[-1])
    yield _Graph("MultiHeadAttention", [fused], named | {"query": flat}, shape, rows_first=True)


def _session(f: Folded, graph: _Graph) -> Prepared:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(x.shape)) for n, x in graph.inputs.items()]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, list(graph.out_shape))
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "attention", inputs, [output]), opset_imports=opsets, ir_version=11
    )
    options = ort.SessionOptions()
    # 0 is its own choice, a thread for every core: only then does it pin them; without it they were seen to share one.
    all_cores = torch.get_num_threads() == len(os.sched_getaffinity(0))
    options.intra_op_num_threads = 0 if all_cores else torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Its threads would spin on after a call and take a core from whoever is measured next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    held = {name: np.ascontiguousarray(x.numpy()) for name, x in graph.inputs.items()}
    for name, array in held.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    out = np.empty(graph.out_shape, np.float32)
    bound = ort.OrtValue.ortvalue_from_numpy(out)
    binding.bind_ortvalue_output("out", bound)
    session.run_with_iobinding(binding)

    def results(_: Any) -> dict[str, Tensor]:
        found = torch.from_numpy(bound.numpy())
        if graph.rows_first:
            found = found.unflatten(2, (f.query.shape[1], -1)).transpose(1, 2)
        return f.results(found)

    held["out"] = out  # numpy keeps the memory that onnxruntime reads

    def run() -> object:
        session.run_with_iobinding(binding)
        return held

    return Prepared(run, results, graph.way)
