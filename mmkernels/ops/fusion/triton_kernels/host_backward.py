"""The launches that make up a backward of concat_fusion, in order (formulas: mmkernels/ops/fusion/reference.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmkernels.ops.fusion.activation import ACTIVATIONS
from mmkernels.ops.fusion.reference import NORM_LAYER, NORM_NONE, rows_shape
from mmkernels.ops.fusion.triton_kernels.call import SharingSpace, Space
from mmkernels.ops.fusion.triton_kernels.gradients import fusion_grad_source, fusion_grad_weight
from mmkernels.ops.fusion.triton_kernels.launch import Launcher, features_before, is_shared, tiles
from mmkernels.ops.fusion.triton_kernels.sums import (
    fusion_join,
    fusion_shared_slopes,
    fusion_slopes,
    fusion_sums,
)
from mmkernels.triton_launch import Device

SUM_ROWS = 256
"""Rows of a chain of sums."""
JOIN_BLOCK = 256


def backward(
    device: Device,
    grad_out: Tensor,
    inputs: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    gate: Tensor | None,
    norm_kind: int,
    eps: float,
    activation: int,
    product: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    needs_input: Sequence[int],
    grad_inputs: Sequence[Tensor],
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
    grad_norm_weight: Tensor | None,
    grad_norm_bias: Tensor | None,
    grad_gate: Tensor | None,
) -> None:
    """Writes the gradients that are there; rows and outputs exist."""
    call = Backward(
        device, inputs, weight, norm_weight, norm_bias, gate, norm_kind, ACTIVATIONS[activation], product, mean, rstd
    )  # fmt: skip
    grads = [grad if need else None for grad, need in zip(grad_inputs, needs_input, strict=True)]
    call.find_slopes(grad_out, bias, any(needs_input), grad_gate)
    if grad_bias is not None or grad_norm_bias is not None or (norm_bias is not None and grad_weight is not None):
        call.sum_outputs(grad_bias)
    call.sources(grads, grad_weight, grad_norm_weight)
    if grad_norm_bias is not None:
        call.norm_bias_gradient(grad_norm_bias)


class Backward(Launcher):
    """One call. Numbers of a row have the shape (*rows, 1), so that they are spread and shared as the sources are."""

    def __init__(
        self,
        device: Device,
        inputs: Sequence[Tensor],
        weight: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        gate: Tensor | None,
        norm_kind: int,
        activation: str,
        product: Tensor | None,
        mean: Tensor | None,
        rstd: Tensor | None,
    ) -> None:
        super().__init__(device, weight)
        self.inputs, self.norm_weight, self.norm_bias, self.gate = inputs, norm_weight, norm_bias, gate
        self.norm_kind, self.activation = norm_kind, activation
        self.product, self.mean, self.rstd = product, mean, rstd
        self.rows = rows_shape(inputs)
        self.outs, self.features = weight.shape
        self.constant: Tensor | None = None
        self.slope: Tensor | None = None
        self.level: Tensor | None = None
        self.sums: Tensor | None = None
        self.dz = weight

    # ---- rows ----

    def find_slopes(self, grad_out: Tensor, bias: Tensor | None, for_inputs: bool, grad_gate: Tensor | None) -> None:
        """dz, the gate's gradient, and what a norm subtracts."""
        norm = self.norm_kind != NORM_NONE and for_inputs
        layer = norm and self.norm_kind == NORM_LAYER
        level_weights = None
        if self.activation != "none" or grad_gate is not None or layer:
            self.constant, level_weights = self.weight_sums(bias, self.norm_weight, self.norm_bias, layer)
        changes = self.activation != "none" or self.gate is not None or grad_out.dtype != self.weight.dtype
        dz = self.empty(*self.rows, self.outs, dtype=self.weight.dtype) if changes else None
        self.dz = grad_out if dz is None else dz
        by_row = grad_gate is not None and (grad_gate.dim() == 0 or grad_gate.shape[-1] == 1)
        gate_sums = self.empty(*self.rows, 1) if by_row else None
        if norm:
            self.slope = self.empty(*self.rows, 1)
        if layer:
            self.level = self.empty(*self.rows, 1)
        if changes or norm:
            tile = self.tile("rows")
            space = Space(self.rows, [grad_out, self.gate])
            count = math.prod(self.rows)
            fusion_slopes[(tiles(count, tile.height),)](
                dz, gate_sums, self.slope, self.level, space.rows(0), space.rows(1), self.product, self.constant,
                level_weights, self.rstd, space.sizes, count, self.outs, float(self.features),
                ACTIVATION=self.activation, HEIGHT=tile.height, WIDTH=tile.width, **self.options(tile),
            )  # fmt: skip
        if grad_gate is not None and gate_sums is not None:
            self.sum(gate_sums, self.rows, grad_gate.shape[:-1], grad_gate)
        elif grad_gate is not None:
            self.sum(grad_out, self.rows, grad_gate.shape[:-1], grad_gate, times_activation=True)

    def sum_outputs(self, grad_bias: Tensor | None) -> None:
        """dz summed over all rows."""
        self.sums = self.empty(self.outs) if grad_bias is None else grad_bias
        self.sum(self.dz, self.rows, (), self.sums)

    def norm_bias_gradient(self, grad: Tensor) -> None:
        """W^T dbias."""
        assert self.sums is not None
        self.sum(self.weight, (self.outs,), (), grad, self.sums.unsqueeze(1))

    # ---- sources ----

    def sources(
        self, grads: Sequence[Tensor | None], grad_weight: Tensor | None, grad_norm_weight: Tensor | None
    ) -> None:
        """The gradients of sources, and of their columns of the weight and of the norm's weight."""
        parts = None
        if grad_norm_weight is not None:
            parts = self.empty(tiles(self.outs, self.tile("grad_weight").height), self.features)
        for x, grad, first in zip(self.inputs, grads, features_before(self.inputs), strict=True):
            if x.shape[-1] == 0:
                continue
            shared = is_shared(x, self.rows)
            multiplied_once = shared and self.norm_kind == NORM_NONE
            if shared and (grad is not None or (multiplied_once and grad_weight is not None)):
                summed = self.empty(*x.shape[:-1], self.outs, dtype=self.weight.dtype)
                self.sum(self.dz, self.rows, x.shape[:-1], summed, self.rstd)
                if grad is not None:
                    self.source_gradient(grad, x, first, summed, None, *self.shared_slopes(x))
                if multiplied_once and grad_weight is not None:
                    self.weight_gradient(x, first, x.shape[:-1], summed, grad_weight, None)
            elif grad is not None:
                mean = self.mean if self.slope is not None else None
                self.source_gradient(grad, x, first, self.dz, self.rstd, self.slope, self.level, mean)
            if not multiplied_once and (grad_weight is not None or parts is not None):
                self.weight_gradient(x, first, self.rows, self.dz, grad_weight, parts)
        if parts is not None and grad_norm_weight is not None:
            self.join(parts, grad_norm_weight, parts.shape[0])

    def source_gradient(
        self,
        grad: Tensor,
        x: Tensor,
        first: int,
        slopes: Tensor,
        rstd: Tensor | None,
        slope: Tensor | None,
        level: Tensor | None,
        mean: Tensor | None,
    ) -> None:
        """dx of the rows of `slopes`, which are those of x."""
        rows, width = slopes.shape[:-1], x.shape[-1]
        tile, count = self.tile("grad_source"), math.prod(rows)
        space = Space(rows, [slopes, x])
        fusion_grad_source[(tiles(count, tile.height, width, tile.width),)](
            grad, space.rows(0), space.rows(1), self.weight, self.weight.stride(0), first, self.norm_weight, rstd,
            slope, level, mean, space.sizes, count, width, self.outs, tiles(width, tile.width), **self.constants(tile),
        )  # fmt: skip

    def weight_gradient(
        self,
        x: Tensor,
        first: int,
        rows: torch.Size,
        slopes: Tensor,
        grad_weight: Tensor | None,
        parts: Tensor | None,
    ) -> None:
        """The source's columns of the weight's gradient, and of the parts of the norm weight's."""
        tile, width = self.tile("grad_weight"), x.shape[-1]
        space = Space(rows, [slopes, x])
        statistics = (None, None) if self.norm_kind == NORM_NONE else (self.mean, self.rstd)
        norm_bias = None if grad_weight is None else self.norm_bias
        fusion_grad_weight[(tiles(self.outs, tile.height, width, tile.width),)](
            grad_weight, parts, self.features, space.rows(0), space.rows(1), self.weight, self.weight.stride(0), first,
            self.norm_weight, norm_bias, self.sums, *statistics, space.sizes, math.prod(rows), self.outs, width,
            tiles(width, tile.width), **self.constants(tile),
        )  # fmt: skip

    def shared_slopes(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What the norm subtracts from a shared source's own rows: slope, level and mean of each; None without one."""
        if self.slope is None:
            return None, None, None
        own = x.shape[:-1]
        space = SharingSpace(self.rows, own, [self.slope])
        layer = self.level is not None
        slope, level, mean = (self.empty(*own, 1) if there else None for there in (True, layer, layer))
        tile = self.tile("rows")
        fusion_shared_slopes[(space.own_rows,)](
            slope, level, mean, space.operands[0], self.level, self.mean if layer else None, space.own_sizes,
            space.sizes, space.sharing, BLOCK=JOIN_BLOCK, **self.options(tile),
        )  # fmt: skip
        return slope, level, mean

    # ---- sums over rows ----

    def sum(
        self,
        summed: Tensor,
        rows: Sequence[int],
        own: Sequence[int],
        to: Tensor,
        factor: Tensor | None = None,
        times_activation: bool = False,
    ) -> None:
        """to = the rows of `summed`, times a factor of each or act(z), added up to those that share an own row."""
        columns, tile = summed.shape[-1], self.tile("rows")
        product = self.product if times_activation else None
        space = SharingSpace(rows, own, [summed, factor, product])
        chunks = -(-space.sharing // SUM_ROWS)
        parts = to if chunks == 1 else self.empty(space.own_rows, chunks, columns)
        fusion_sums[(space.own_rows * chunks * tiles(columns, tile.width),)](
            parts, *space.operands, self.constant if times_activation else None, space.own_sizes, space.sizes,
            space.sharing, chunks, columns, tiles(columns, tile.width), ACTIVATION=self.activation, CHUNK=SUM_ROWS,
            HEIGHT=tile.height, WIDTH=tile.width, **self.options(tile),
        )  # fmt: skip
        if chunks > 1:
            self.join(parts, to, chunks)

    def join(self, parts: Tensor, to: Tensor, chunks: int) -> None:
        """to = the sum over the chunks of parts, (own rows, chunks, columns), in order."""
        count, tile = to.numel(), self.tile("rows")
        fusion_join[(tiles(count, JOIN_BLOCK),)](
            to, parts, count, chunks, parts.shape[-1], BLOCK=JOIN_BLOCK, **self.options(tile)
        )  # fmt: skip
