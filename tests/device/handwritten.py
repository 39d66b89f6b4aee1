"""Small kernels around a few instructions, for the tests of the interpreter."""

from __future__ import annotations

import numpy as np

from tests.device.ptx import Module

HEADER = ".version 8.5\n.target sm_80\n.address_size 64\n"
_REGISTERS = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<32>; .reg .b64 %l<32>; .reg .f32 %f<9>; .reg .f64 %e<9>;"


def kernel(body: str, parameters: str = ".param .u64 out", variables: str = "") -> str:
    """A kernel `test` whose registers are %p %h %r %l %f %e; %l30 holds the address of `out`, %r30 the thread."""
    start = "ld.param.u64 %l30, [out]; mov.u32 %r30, %tid.x;"
    return f"{HEADER}{variables}\n.visible .entry test({parameters})\n{{\n{_REGISTERS}\n{start}\n{body}\nret;\n}}\n"


def run(
    body: str, out: np.ndarray, threads: int = 32, seed: int = 0, variables: str = "", shared_bytes: int = 0
) -> None:
    module = Module(kernel(body, variables=variables))
    module.launch("test", (1, 1, 1), (threads, 1, 1), shared_bytes, [out], seed)


def apply(instruction: str, *sources: np.ndarray, result: np.dtype | type) -> np.ndarray:
    """`instruction` with %0 for its result and %1, %2 .. for its sources, one element for each thread."""
    widths = {1: "b8", 2: "b16", 4: "b32", 8: "b64"}
    banks = {1: "%h", 2: "%h", 4: "%r", 8: "%l"}
    count, out = len(sources[0]), np.zeros(len(sources[0]), result)
    parameters, lines, text = [".param .u64 out"], [], instruction
    for k, source in enumerate(sources, 1):
        size, register = source.itemsize, f"{banks[source.itemsize]}{k}"
        parameters.append(f".param .u64 in{k}")
        lines.append(f"ld.param.u64 %l{10 + k}, [in{k}]; mad.wide.u32 %l{10 + k}, %r30, {size}, %l{10 + k};")
        lines.append(f"ld.global.{widths[size]} {register}, [%l{10 + k}];")
        text = text.replace(f"%{k}", f"\0{register[1:]}")
    register = f"{banks[out.itemsize]}0"
    lines.append(text.replace("%0", register).replace("\0", "%"))
    lines.append(f"mad.wide.u32 %l29, %r30, {out.itemsize}, %l30; st.global.{widths[out.itemsize]} [%l29], {register};")
    module = Module(kernel("\n".join(lines), ", ".join(parameters)))
    module.launch("test", (1, 1, 1), (count, 1, 1), args=[out, *(np.ascontiguousarray(source) for source in sources)])
    return out
