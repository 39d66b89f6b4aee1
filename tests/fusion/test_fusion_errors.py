"""Every wrong argument of concat_fusion raises, naming the argument, before anything runs."""

from __future__ import annotations

import pytest
import torch

import mmkernels as mmk
from mmkernels.ops.fusion import op, reference
from tests.backends import EVERY, runs

X, Y, WEIGHT = torch.randn(2, 3, 5), torch.randn(2, 1, 4), torch.randn(6, 9)
INT = torch.ones(6, dtype=torch.int64)

WRONG = {
    "a tensor instead of a list": ({"inputs": X}, TypeError, "inputs must be a list"),
    "no input": ({"inputs": []}, ValueError, "inputs must hold at least one"),
    "not a tensor": ({"inputs": [X, 1.0]}, TypeError, r"inputs\[1\] must be a tensor, got float"),
    "integer input": ({"inputs": [X.long(), Y]}, TypeError, r"inputs\[0\] has dtype torch.int64"),
    "complex input": ({"inputs": [X, Y.to(torch.complex64)]}, TypeError, r"inputs\[1\] has dtype torch.complex64"),
    "sparse input": ({"inputs": [X, Y.to_sparse()]}, TypeError, r"inputs\[1\] has layout torch.sparse_coo"),
    "sparse residual": ({"residual": X.to_sparse()}, TypeError, "residual has layout torch.sparse_coo"),
    "input without axis": ({"inputs": [X, torch.tensor(1.0)]}, ValueError, r"inputs\[1\] has no axis"),
    "mixed dtypes": ({"inputs": [X, Y.double()]}, TypeError, r"inputs\[1\] has dtype torch.float64.*torch.float32"),
    "no broadcast": ({"inputs": [X, torch.randn(2, 2, 4)]}, ValueError, r"\(2, 3, 5\), \(2, 2, 4\).*do not broadcast"),
    "another device": ({"inputs": [X, Y.to("meta")]}, ValueError, r"inputs\[1\] is on meta"),
    "weight is no tensor": ({"weight": [[1.0]]}, TypeError, "weight must be a tensor, got list"),
    "weight's width": ({"weight": torch.randn(6, 8)}, ValueError, r"weight has shape \(6, 8\), expected \(out, 9\)"),
    "weight's axes": ({"weight": torch.randn(9)}, ValueError, r"weight has shape \(9,\)"),
    "weight's dtype": ({"weight": WEIGHT.bfloat16()}, TypeError, "weight has dtype torch.bfloat16"),
    "bias's shape": ({"bias": torch.randn(5)}, ValueError, r"bias has shape \(5,\), expected \(6,\)"),
    "bias's dtype": ({"bias": INT}, TypeError, "bias has dtype torch.int64"),
    "unknown norm": ({"norm": "layer"}, TypeError, "norm must be a LayerNorm or RMSNorm.*got str"),
    "batch norm": ({"norm": torch.nn.BatchNorm1d(9)}, TypeError, "norm must be .*got BatchNorm1d"),
    "norm of another width": ({"norm": torch.nn.LayerNorm(8)}, ValueError, r"normalized_shape \(8,\), expected \(9,\)"),
    "norm over two axes": ({"norm": torch.nn.RMSNorm((3, 9))}, ValueError, r"normalized_shape \(3, 9\)"),
    "norm weight's shape": ({"norm": mmk.LayerNorm(torch.ones(5))}, ValueError, r"norm.weight has shape \(5,\)"),
    "norm bias's shape": ({"norm": mmk.LayerNorm(None, torch.ones(5))}, ValueError, r"norm.bias has shape \(5,\)"),
    "norm weight's dtype": ({"norm": mmk.RMSNorm(torch.ones(9).long())}, TypeError, "norm.weight must be a floating"),
    "norm weight is no tensor": ({"norm": mmk.RMSNorm(1.0)}, TypeError, "norm.weight must be a floating"),
    "norm's device": ({"norm": mmk.RMSNorm(torch.ones(9, device="meta"))}, ValueError, "norm.weight is on meta"),
    "negative eps": ({"norm": mmk.LayerNorm(eps=-1.0)}, ValueError, "norm.eps must be a number of at least 0, got -1"),
    "eps is NaN": ({"norm": mmk.RMSNorm(eps=float("nan"))}, ValueError, "norm.eps must be .* at least 0, got nan"),
    "eps is no number": ({"norm": mmk.RMSNorm(eps="1e-6")}, ValueError, "norm.eps must be a number"),
    "unknown activation": ({"activation": "swish"}, ValueError, "activation must be None or one of .*got 'swish'"),
    "activation none": ({"activation": "none"}, ValueError, "activation must be None or one of"),
    "gate is a bool": ({"gate": True}, TypeError, "gate must be a tensor, got bool"),
    "gate's dtype": ({"gate": INT}, TypeError, "gate has dtype torch.int64"),
    "gate's shape": ({"gate": torch.randn(3)}, ValueError, r"gate has shape \(3,\), .* output \(2, 3, 6\)"),
    "gate's rank": ({"gate": torch.randn(1, 2, 3, 6)}, ValueError, r"gate has shape \(1, 2, 3, 6\)"),
    "residual's shape": ({"residual": torch.randn(2, 3, 9)}, ValueError, r"residual has shape \(2, 3, 9\)"),
    "residual enlarges": ({"residual": torch.randn(4, 2, 3, 6)}, ValueError, r"residual has shape \(4, 2, 3, 6\)"),
    "residual's dtype": ({"residual": X.long()}, TypeError, "residual has dtype torch.int64"),
    "unknown backend": ({"backend": "gpu"}, ValueError, "backend must be None or one of .*got 'gpu'"),
    "backend is no name": ({"backend": 1}, TypeError, "backend must be None or one of"),
    "backend without kernel": ({"backend": "triton"}, ValueError, "backend='triton' cannot run concat_fusion_forward"),
}


def _run(*arguments):
    raise AssertionError("an op ran")


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument(name, monkeypatch):
    changes, error, message = WRONG[name]
    if name != "backend without kernel":  # that is for the dispatcher to say
        monkeypatch.setattr(op, "forward", _run)
    monkeypatch.setattr(reference, "forward", _run)
    arguments = {"inputs": [X, Y], "weight": WEIGHT, **changes}
    with pytest.raises(error, match=message):
        mmk.concat_fusion(arguments.pop("inputs"), arguments.pop("weight"), **arguments)


@runs(*EVERY)
def test_the_call_that_the_wrong_ones_change_is_right(run):
    with run.active() as backend:
        assert mmk.concat_fusion([X, Y], WEIGHT, backend=backend).shape == (2, 3, 6)


def test_a_right_call_runs_the_op_that_wrong_ones_must_not(monkeypatch):
    monkeypatch.setattr(op, "forward", _run)
    with pytest.raises(AssertionError, match="an op ran"):
        mmk.concat_fusion([X, Y], WEIGHT)


def test_norm_of_nothing():
    with pytest.raises(ValueError, match="norm needs at least one feature"):
        mmk.concat_fusion([torch.empty(2, 0)], torch.empty(3, 0), norm=mmk.LayerNorm())
