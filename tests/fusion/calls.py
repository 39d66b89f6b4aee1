"""Calls for the tests of the ops' rules: as a function of flat tensors, and as the raw op's arguments."""

from __future__ import annotations

from tests.fusion.naive import Case, fused

FULL = Case(((2, 3, 4), (2, 1, 3), (2,)), out=3, norm="layer", activation="gelu", gate=(3, 1), residual=(2, 1, 3))
RMS = Case(((3, 2), (1, 3)), out=2, norm="rms", activation="silu", gate=(2,))
PLAIN = Case(((3, 2), (1, 3)), out=2)


def as_function(case, operands, backend=None):
    """(function of flat tensors, tensors)."""
    names = list(operands.named())
    count = len(operands.inputs)

    def function(*tensors):
        named = dict(zip(names, tensors, strict=True))
        replaced = type(operands)(list(tensors[:count]), {k: named.get(k) for k in operands.rest})
        return fused(case, replaced, backend=backend)

    return function, tuple(operands.named().values())


def raw_arguments(case, operands, save=True, backend=None):
    rest = operands.rest
    kind = {None: 0, "layer": 1, "rms": 2}[case.norm]
    tensors = (rest["weight"], rest["bias"], rest["norm_weight"], rest["norm_bias"], rest["gate"], rest["residual"])
    return (operands.inputs, *tensors, kind, 1e-5, case.activation or "none", save, backend)
