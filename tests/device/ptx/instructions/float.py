"""Floating-point arithmetic.

The .approx functions are computed in float64 and rounded: nearer to the truth than the hardware is. A zero that min
or max chooses between two signs, and the payload of a NaN, are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..kinds import PtxError
from ..memory import Where
from ..operands import Instruction
from .rounding import FORMATS, flush, fma32, fma64, fma_to_odd, narrow, sum_to_odd
from .table import Step, only, plain

if TYPE_CHECKING:
    from ..gang import Gang

Values = np.ndarray
TYPES = tuple(FORMATS)
_ROUNDINGS = ("rn", "rz", "rm", "rp")
_SIMPLE = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "min": np.fmin,
    "max": np.fmax,
    "abs": np.abs,
    "neg": np.negative,
}


def elementwise(gang: Gang, instruction: Instruction, function: Callable[..., Values], odd: bool = False) -> Step:
    """d = function(a, b, ...) in the instruction's format; `odd` says that it returns a float64 rounded to odd."""
    form, registers = FORMATS[instruction.type], gang.registers
    out = registers.write(instruction.operands[0], form.register).view(form.storage)
    sources = [registers.read(each, form.register).view(form.storage) for each in instruction.operands[1:]]
    per_lane = len(out) // gang.lanes
    encode = form.encode_odd if odd else form.encode
    flushes = "ftz" in instruction.modifiers and instruction.type == "f32"
    clamps, rectifies = "sat" in instruction.modifiers, "relu" in instruction.modifiers

    def step(where: Where) -> None:
        values = [form.decode(each) for each in sources]
        if flushes:
            values = [flush(each) for each in values]
        found = function(*values)
        if flushes:
            found = flush(found)
        if clamps:
            found = np.fmin(np.fmax(found, 0), 1)  # a NaN becomes 0
        if rectifies:
            found = np.where(found < 0, np.zeros_like(found), found)
        if where is not True and per_lane > 1:
            where = np.repeat(where, per_lane)
        np.copyto(out, encode(found), where=where)

    return step


@plain(*_SIMPLE, kind="float")
def simple(gang: Gang, instruction: Instruction) -> Step:
    name, type_ = instruction.name, instruction.type
    found = only(instruction, *TYPES, *_ROUNDINGS, "ftz", "sat", "NaN", "xorsign", "abs")
    if "xorsign" in found:
        raise PtxError("unknown modifier .xorsign")
    mode = next((each for each in _ROUNDINGS if each in found), "rn")
    function: Callable[..., Values] = _SIMPLE[name]
    if mode != "rn":
        return elementwise(gang, instruction, _directed(name, type_, mode))
    if "NaN" in found:
        function = np.minimum if name == "min" else np.maximum
    if type_ in {"f32", "f64"} and not found & {"ftz", "sat"}:  # the hot path
        out = gang.registers.write(instruction.operands[0], type_)
        sources = [gang.registers.read(each, type_) for each in instruction.operands[1:]]

        def step(where: Where) -> None:
            function(*sources, out=out, where=where)

        return step
    return elementwise(gang, instruction, function)


def _directed(name: str, type_: str, mode: str) -> Callable[..., Values]:
    if type_ != "f32" or name not in {"add", "sub", "mul"}:
        raise PtxError(f"unknown modifier .{mode}")

    def function(a: Values, b: Values) -> Values:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return narrow(a * b if name == "mul" else sum_to_odd(a, b if name == "add" else -b), np.float32, mode)

    return function


@plain("fma", "mad", kind="float")
def fma(gang: Gang, instruction: Instruction) -> Step:
    found = only(instruction, *TYPES, *_ROUNDINGS, "ftz", "sat", "relu")
    mode = next((each for each in _ROUNDINGS if each in found), "rn")
    if mode != "rn":
        if instruction.type != "f32":
            raise PtxError(f"unknown modifier .{mode}")
        return elementwise(gang, instruction, lambda a, b, c: narrow(fma_to_odd(a, b, c), np.float32, mode))
    if instruction.type == "f64":
        return elementwise(gang, instruction, fma64)
    if instruction.type == "f32":
        return elementwise(gang, instruction, fma32)
    return elementwise(gang, instruction, fma_to_odd, odd=True)


@plain("div", kind="float")
def div(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, "rn", "full", "approx", "ftz", "f32", "f64")
    return elementwise(gang, instruction, np.divide)


def _exact(function: Callable[[Values], Values]) -> Callable[[Values], Values]:
    """Of float32 through float64, which rounds a square root or a reciprocal correctly, too."""
    return lambda a: function(a.astype(np.float64)).astype(a.dtype)


_FUNCTIONS: dict[str, Callable[..., Values]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": np.reciprocal,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@plain(*_FUNCTIONS)
def functions(gang: Gang, instruction: Instruction) -> Step:
    only(instruction, *TYPES, "approx", "rn", "ftz")
    return elementwise(gang, instruction, _exact(_FUNCTIONS[instruction.name]))


@plain("copysign")
def copysign(gang: Gang, instruction: Instruction) -> Step:
    """The magnitude of b with the sign of a."""
    only(instruction, "f32", "f64")
    return elementwise(gang, instruction, lambda a, b: np.copysign(b, a))


def _is_normal(a: Values) -> Values:
    return np.isfinite(a) & (np.abs(a) >= np.finfo(a.dtype).tiny)


_PROPERTIES: dict[str, Callable[..., Values]] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda a: ~np.isnan(a),
    "notanumber": np.isnan,
    "normal": _is_normal,
    "subnormal": lambda a: np.isfinite(a) & (a != 0) & ~_is_normal(a),
}


@plain("testp")
def testp(gang: Gang, instruction: Instruction) -> Step:
    asked = (only(instruction, *_PROPERTIES, "f32", "f64") & set(_PROPERTIES)).pop()
    out = gang.registers.write(instruction.operands[0], "pred")
    a = gang.registers.read(instruction.operands[1], instruction.type)
    return lambda where: np.copyto(out, _PROPERTIES[asked](a), where=where)
