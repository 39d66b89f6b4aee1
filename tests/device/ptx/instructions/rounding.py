"""Floating-point formats and exact rounding.

float16 and bfloat16 are computed in float32 and rounded once more, which is harmless for one addition or product (24
bits are more than twice 11, and than twice 8, plus 2). A fused multiply-add goes through a float64 that is rounded to
odd: that value remembers which side of a tie it came from, so the last rounding is the only one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Values = np.ndarray
_SMALLEST_NORMAL = np.float32(2.0**-126)


# ---- rounding one format into another ----


def narrow(exact: Values, dtype: np.dtype | type, mode: str = "rn") -> Values:
    """A value in a wider format, rounded: rn to nearest even, rz to zero, rm down, rp up."""
    found = exact.astype(dtype)
    if mode == "rn":
        return found
    back = found.astype(exact.dtype)
    zero, up = np.zeros_like(found), np.full_like(found, np.inf)
    wrong, toward = {
        "rz": (np.abs(back) > np.abs(exact), zero),
        "rm": (back > exact, -up),
        "rp": (back < exact, up),
    }[mode]
    return np.where(wrong, np.nextafter(found, toward), found)


def to_bfloat16(values: Values, mode: str = "rn") -> Values:
    """float32 to the bits of bfloat16; every NaN is 0x7FFF."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if mode == "rn":
        half = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
        found = (bits + half >> np.uint32(16)).astype(np.uint16)
    else:
        found = (bits >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), found)


def from_bfloat16(bits: Values) -> Values:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def flush(values: Values) -> Values:
    """float32 subnormals become zeros of the same sign (.ftz)."""
    return np.where(np.abs(values) < _SMALLEST_NORMAL, np.copysign(np.float32(0), values), values)


# ---- a * b + c ----


def to_odd(total: Values, error: Values) -> Values:
    """float64 `total` whose rounding left `error`: the odd one of the two neighbours of the exact sum."""
    bits = total.view(np.int64)
    inexact = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
    away = (error > 0) == (total > 0)
    return np.where(inexact, bits + np.where(away, 1, -1), bits).view(np.float64)


def sum_to_odd(a: Values, b: Values) -> Values:
    """a + b of float64, rounded to odd."""
    total = a + b
    part = total - a
    return to_odd(total, (a - (total - part)) + (b - part))


def fma_to_odd(a: Values, b: Values, c: Values) -> Values:
    """a * b + c of float32 or narrower, in float64 rounded to odd: the product is exact there."""
    return sum_to_odd(np.multiply(a, b, dtype=np.float64), c.astype(np.float64))


def fma32(a: Values, b: Values, c: Values) -> Values:
    """Correctly rounded. Rounding twice is wrong only at a tie of float32 and among its subnormals."""
    total = np.multiply(a, b, dtype=np.float64) + c
    tail = total.view(np.int64) & 0x1FFFFFFF
    if (tail == 0x10000000).any() or (np.abs(total) < _SMALLEST_NORMAL).any():
        total = fma_to_odd(a, b, c)
    return total.astype(np.float32)


def fma64(a: Values, b: Values, c: Values) -> Values:
    """Through fractions: slow and exact."""
    found = a * b + c
    for k in np.flatnonzero(np.isfinite(a) & np.isfinite(b) & np.isfinite(c)):
        exact = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        if exact:
            try:
                found[k] = float(exact)
            except OverflowError:
                found[k] = np.inf if exact > 0 else -np.inf
    return found


# ---- formats of registers ----


@dataclass(frozen=True)
class Format:
    """How values of a type lie in a register, and what they are computed in."""

    register: str  # the type a register is read as
    storage: np.dtype  # of one element; the packed formats have two in a register
    decode: Callable[[Values], Values]
    encode: Callable[[Values], Values]  # from what it is computed in
    encode_odd: Callable[[Values], Values]  # from float64 rounded to odd


def _odd32(exact: Values) -> Values:
    """float64 to float32, again rounded to odd."""
    found = narrow(exact, np.float32, "rz")
    return (found.view(np.uint32) | (found != exact)).view(np.float32)


def _format(name: str) -> Format:
    register = "b32" if name.endswith("x2") else name
    if name.startswith("bf16"):
        decode, encode, odd = from_bfloat16, to_bfloat16, lambda x: to_bfloat16(_odd32(x))
        return Format(register, np.dtype(np.uint16), decode, encode, odd)
    if name.startswith("f16"):
        half = lambda x: x.astype(np.float16)  # noqa: E731
        return Format(register, np.dtype(np.float16), lambda x: x.astype(np.float32), half, half)
    storage = np.dtype(np.float32 if name == "f32" else np.float64)
    same = lambda x: x  # noqa: E731
    return Format(register, storage, same, same, lambda x: x.astype(storage))


FORMATS = {name: _format(name) for name in ("f16", "f16x2", "bf16", "bf16x2", "f32", "f64")}
