"""Attention, a product and row statistics in textbook Triton: another compiler's PTX for the problems of our kernels.

Nothing here is of the project: the kernels are written from the formulas, and the interpreter runs what Triton compiles
them to. They read any sizes; rows are dense.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.device.attention import array
from tests.device.ptx import Module

LOG2_E = 1.4426950408889634
POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}


@triton.jit
def attention_kernel(
    query, key, value, out, lse, rows, keys, scale_log2,
    tile: tl.constexpr, block: tl.constexpr, dim: tl.constexpr,
):  # fmt: skip
    head, feature = tl.program_id(1), tl.arange(0, dim)
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    place = (head * rows + row)[:, None] * dim + feature[None, :]
    q = tl.load(query + place, mask=(row < rows)[:, None], other=0.0)
    largest = tl.full((tile,), float("-inf"), tl.float32)
    total = tl.zeros((tile,), tl.float32)
    mixed = tl.zeros((tile, dim), tl.float32)
    for begin in range(0, keys, block):
        index = begin + tl.arange(0, block)
        seen = (index < keys)[:, None]
        source = (head * keys + index)[:, None] * dim + feature[None, :]
        k = tl.load(key + source, mask=seen, other=0.0)
        v = tl.load(value + source, mask=seen, other=0.0)
        logits = tl.dot(q, tl.trans(k)) * scale_log2
        logits = tl.where((index < keys)[None, :], logits, float("-inf"))
        raised = tl.maximum(largest, tl.max(logits, 1))
        weight = tl.exp2(logits - raised[:, None])
        shrunk = tl.exp2(largest - raised)
        total = total * shrunk + tl.sum(weight, 1)
        mixed = tl.dot(weight.to(v.dtype), v, mixed * shrunk[:, None])
        largest = raised
    tl.store(out + place, (mixed / total[:, None]).to(out.dtype.element_ty), mask=(row < rows)[:, None])
    tl.store(lse + head * rows + row, (largest + tl.log2(total)) * 0.6931471805599453, mask=row < rows)


@triton.jit
def product_kernel(
    x, weight, bias, out, rows, columns, depth,
    tile: tl.constexpr, wide: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    """x weight^T + bias."""
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column, k = tl.program_id(1) * wide + tl.arange(0, wide), tl.arange(0, step)
    total = tl.zeros((tile, wide), tl.float32)
    for begin in range(0, depth, step):
        feature = begin + k
        inside = feature < depth
        left = tl.load(
            x + row[:, None] * depth + feature[None, :], mask=(row < rows)[:, None] & inside[None, :], other=0.0
        )
        right = tl.load(
            weight + column[None, :] * depth + feature[:, None],
            mask=(column < columns)[None, :] & inside[:, None],
            other=0.0,
        )
        total = tl.dot(left, right, total)
    total += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out + row[:, None] * columns + column[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def logsumexp_kernel(
    image, text, out, scale, rows, columns,
    tile: tl.constexpr, block: tl.constexpr, dim: tl.constexpr,
):  # fmt: skip
    """Of every row of scale image text^T; `scale` has the factor of base 2."""
    row, feature = tl.program_id(0) * tile + tl.arange(0, tile), tl.arange(0, dim)
    left = tl.load(image + row[:, None] * dim + feature[None, :], mask=(row < rows)[:, None], other=0.0)
    largest, total = tl.full((tile,), float("-inf"), tl.float32), tl.zeros((tile,), tl.float32)
    for begin in range(0, columns, block):
        column = begin + tl.arange(0, block)
        right = tl.load(text + column[None, :] * dim + feature[:, None], mask=(column < columns)[None, :], other=0.0)
        logits = tl.where((column < columns)[None, :], tl.dot(left, right) * scale, float("-inf"))
        raised = tl.maximum(largest, tl.max(logits, 1))
        total = total * tl.exp2(largest - raised) + tl.sum(tl.exp2(logits - raised[:, None]), 1)
        largest = raised
    tl.store(out + row, (largest + tl.log2(total)) * 0.6931471805599453, mask=row < rows)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, seed: int = 0) -> dict[str, Tensor]:
    """out and lse of (B, H, L, D) operands, by tiles of 64 rows and blocks of 32 keys."""
    batch, heads, rows, dim = query.shape
    out, lse = torch.full_like(query, torch.nan), torch.full(query.shape[:3], torch.nan)
    arguments = {"query": query, "key": key, "value": value, "out": out, "lse": lse, "rows": rows}
    arguments |= {"keys": key.shape[2], "scale_log2": scale * LOG2_E}
    constants = {"tile": 64, "block": 32, "dim": dim}
    launch(attention_kernel, arguments, constants, (-(-rows // 64), batch * heads, 1), seed)
    return {"out": out, "lse": lse}


def product(x: Tensor, weight: Tensor, bias: Tensor, seed: int = 0) -> Tensor:
    """x weight^T + bias, in tiles of 64 x 32."""
    (rows, depth), columns = x.shape, weight.shape[0]
    out = torch.full((rows, columns), torch.nan, dtype=x.dtype)
    arguments = {"x": x, "weight": weight, "bias": bias, "out": out, "rows": rows, "columns": columns, "depth": depth}
    constants = {"tile": 64, "wide": 32, "step": 32}
    launch(product_kernel, arguments, constants, (-(-rows // 64), -(-columns // 32), 1), seed)
    return out


def logsumexp(image: Tensor, text: Tensor, scale: float, seed: int = 0) -> Tensor:
    """Of the rows of scale image text^T, whose width is a power of two."""
    out = torch.full((len(image),), torch.nan)
    arguments = {"image": image, "text": text, "out": out, "scale": scale * LOG2_E}
    arguments |= {"rows": len(image), "columns": len(text)}
    constants = {"tile": 32, "block": 32, "dim": image.shape[1]}
    launch(logsumexp_kernel, arguments, constants, (-(-len(image) // 32), 1, 1), seed)
    return out


def launch(
    kernel: Any, arguments: Mapping[str, Any], constants: Mapping[str, int], grid: tuple[int, int, int], seed: int
) -> None:
    """Compiled for sm_80 with Triton's usual pipelining; run with blocks and warps in the seed's order."""
    types = {name: type_of(value) for name, value in arguments.items()}
    module, shared_bytes = compiled(kernel, tuple(types.items()), tuple(constants.items()))
    name = module.find(kernel.__name__)
    scratch = [np.uint64(0)] * (len(module.kernel(name).parameters) - len(arguments))
    numbers = {"i32": np.int32, "fp32": np.float32}
    given = [
        np.ascontiguousarray(array(value)) if isinstance(value, Tensor) else numbers[types[key]](value)
        for key, value in arguments.items()
    ]
    module.launch(name, grid, (128, 1, 1), shared_bytes, [*given, *scratch], seed)


def type_of(value: Tensor | int | float) -> str:
    """In Triton's words."""
    if isinstance(value, Tensor):
        return POINTERS[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


@functools.cache
def compiled(
    kernel: Any, types: tuple[tuple[str, str], ...], constants: tuple[tuple[str, int], ...]
) -> tuple[Module, int]:
    """The module and the bytes of shared memory."""
    pointers = {(i,): [["tt.divisibility", 16]] for i, (_, type_) in enumerate(types) if type_.startswith("*")}
    source = ASTSource(
        kernel,
        signature=dict(types) | dict.fromkeys(dict(constants), "constexpr"),
        constexprs=dict(constants),
        attrs=pointers,
    )
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}
    found = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
    return Module(found.asm["ptx"]), found.metadata.shared
