"""Every wrong argument of the fusion modules raises, naming the argument, what it is and what was expected."""

from __future__ import annotations

import pytest
import torch

from mmkernels import nn

X, Y = torch.randn(2, 3, 8), torch.randn(2, 3, 6)


def unit(inputs):
    return nn.GatedMultimodalUnit([8, 6], 4)(inputs)


def bilinear(inputs):
    return nn.LowRankBilinearFusion([8, 6], 4, 5)(inputs)


def parallel(*args, **options):
    return nn.ParallelFusion(8, 6)(*args, **options)


def bottleneck(streams, **options):
    return nn.BottleneckFusion(8)(streams, **options)


VALUES = {
    "out_features": (lambda: nn.ConcatFusion([4], -1), "out_features must be at least 0, got -1"),
    "in_features": (lambda: nn.ConcatFusion([4, -1], 4), r"in_features\[1\] must be at least 0, got -1"),
    "project": (lambda: nn.ConcatFusion([4], 4, project=-2), r"project\[0\] must be at least 0, got -2"),
    "unit of one": (lambda: nn.GatedMultimodalUnit([8], 4), r"in_features .* at least 2 input\(s\), got \[8\]"),
    "unit's width": (lambda: nn.GatedMultimodalUnit([8, 0], 4), r"in_features\[1\] must be at least 1, got 0"),
    "unit's output": (lambda: nn.GatedMultimodalUnit([8, 8], 0), "out_features must be at least 1, got 0"),
    "unit's inputs": (lambda: unit([X]), "inputs must hold 2 tensors, got 1"),
    "unit's features": (lambda: unit([X, X]), r"inputs\[1\] has shape \(2, 3, 8\), expected a tensor \(..., 6\)"),
    "unit's rows": (lambda: unit([X, Y[:, :2]]), r"inputs have shapes .*\(2, 2, 6\).*do not broadcast"),
    "unit's devices": (lambda: unit([X, Y.to("meta")]), r"inputs\[1\] is on meta, but inputs\[0\] is on cpu"),
    "bilinear of one": (lambda: nn.LowRankBilinearFusion([8], 4, 5), r"in_features .* at least 2 input\(s\)"),
    "rank": (lambda: nn.LowRankBilinearFusion([8, 8], 4, 0), "rank must be at least 1, got 0"),
    "bilinear activation": (
        lambda: nn.LowRankBilinearFusion([8, 8], 4, 5, activation="swish"),
        "activation must be None or one of .*'swish'",
    ),
    "bilinear inputs": (lambda: bilinear([X, Y, Y]), "inputs must hold 2 tensors, got 3"),
    "bilinear features": (lambda: bilinear([Y, Y]), r"inputs\[0\] has shape \(2, 3, 6\), expected a tensor \(..., 8\)"),
    "bilinear rows": (lambda: bilinear([X, Y[:, :2]]), "inputs have shapes .* do not broadcast"),
    "attention_features": (lambda: nn.ParallelFusion(0, 6), "attention_features must be at least 1, got 0"),
    "mlp_features": (lambda: nn.ParallelFusion(8, -6), "mlp_features must be at least 1, got -6"),
    "parallel output": (lambda: nn.ParallelFusion(8, 6, 0), "out_features must be at least 1, got 0"),
    "parallel activation": (
        lambda: nn.ParallelFusion(8, 6, activation="none"),
        "activation must be None or one of .*'none'",
    ),
    "attention": (lambda: parallel(Y, Y), r"attention has shape \(2, 3, 6\), expected a tensor \(..., 8\)"),
    "mlp": (lambda: parallel(X, X), r"mlp has shape \(2, 3, 8\), expected a tensor \(..., 6\)"),
    "gate": (lambda: parallel(X, Y, gate=torch.ones(4, 1, 8)), r"gate has shape \(4, 1, 8\), which does not broadcast"),
    "residual": (lambda: parallel(X, Y, residual=Y), r"residual has shape \(2, 3, 6\), which does not broadcast"),
    "dim": (lambda: nn.BottleneckFusion(0), "dim must be at least 1, got 0"),
    "heads": (lambda: nn.BottleneckFusion(10, heads=4), "dim must be a multiple of heads"),
    "no heads": (lambda: nn.BottleneckFusion(8, heads=0), "heads must be at least 1, got 0"),
    "modalities": (lambda: nn.BottleneckFusion(8, 1), "modalities must be at least 2, got 1"),
    "tokens": (lambda: nn.BottleneckFusion(8, tokens=0), "tokens must be at least 1, got 0"),
    "layers": (lambda: nn.BottleneckFusion(8, layers=0), "layers must be at least 1, got 0"),
    "ffn_dim": (lambda: nn.BottleneckFusion(8, ffn_dim=0), "ffn_dim must be at least 1, got 0"),
    "dropout": (lambda: nn.BottleneckFusion(8, dropout=2), r"dropout must be in \[0, 1\], got 2"),
    "streams": (lambda: bottleneck([X]), "streams must hold 2 tensors, got 1"),
    "stream": (lambda: bottleneck([X, Y]), r"streams\[1\] has shape \(2, 3, 6\), expected \(batch, tokens, 8\)"),
    "batches": (lambda: bottleneck([X, X[[0, 1, 1]]]), r"streams have batches of \[2, 3\], expected one size, or 1"),
    "number of lengths": (lambda: bottleneck([X, X], lengths=[None]), "lengths must hold 2 tensors, got 1"),
    "lengths": (lambda: bottleneck([X, X], lengths=[torch.ones(3, dtype=torch.int64), None]), "lengths"),
}

TYPES = {
    "in_features": (lambda: nn.ConcatFusion("ab", 4), r"in_features\[0\] must be an int, got str"),
    "a width": (lambda: nn.ConcatFusion([4.0], 4), r"in_features\[0\] must be an int, got float"),
    "out_features": (lambda: nn.ConcatFusion([4], True), "out_features must be an int, got bool"),
    "an input": (lambda: nn.ConcatFusion([8], 4)([None]), r"inputs\[0\] must be a tensor, got NoneType"),
    "unit's widths": (lambda: nn.GatedMultimodalUnit(8, 4), "in_features must be a list of ints, got int"),
    "unit's inputs": (lambda: unit(X), "inputs must be a list of tensors, got Tensor"),
    "unit's dtypes": (
        lambda: unit([X, Y.double()]),
        r"inputs\[1\] has dtype torch.float64, but inputs\[0\] has torch.float32",
    ),
    "unit's dtype": (lambda: unit([X.double(), Y.double()]), "weight has dtype torch.float32"),
    "rank": (lambda: nn.LowRankBilinearFusion([8, 8], 4, 2.5), "rank must be an int, got float"),
    "bilinear inputs": (lambda: bilinear([X, 1.0]), r"inputs\[1\] must be a tensor, got float"),
    "attention": (lambda: parallel([X], Y), "attention must be a tensor, got list"),
    "gate": (lambda: parallel(X, Y, gate="open"), "gate must be a tensor, got str"),
    "modalities": (lambda: nn.BottleneckFusion(8, [8, 8]), "modalities must be an int, got list"),
    "streams": (lambda: bottleneck(torch.stack([X, X])), "streams must be a list of tensors, got Tensor"),
    "stream": (lambda: bottleneck([X, None]), r"streams\[1\] must be a tensor, got NoneType"),
    "lengths": (lambda: bottleneck([X, X], lengths=torch.ones(2)), "lengths must be a list of tensors, got Tensor"),
    "dtype of lengths": (lambda: bottleneck([X, X], lengths=[torch.ones(2), None]), "lengths"),
}


@pytest.mark.parametrize("name", VALUES)
def test_wrong_value(name):
    call, message = VALUES[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", TYPES)
def test_wrong_type(name):
    call, message = TYPES[name]
    with pytest.raises(TypeError, match=message):
        call()
