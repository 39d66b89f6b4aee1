"""PTX's fundamental types as numpy sees them."""

from __future__ import annotations

import numpy as np

UNSIGNED = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.uint32), 64: np.dtype(np.uint64)}
SIGNED = {8: np.dtype(np.int8), 16: np.dtype(np.int16), 32: np.dtype(np.int32), 64: np.dtype(np.int64)}
FLOATING = {16: np.dtype(np.float16), 32: np.dtype(np.float32), 64: np.dtype(np.float64)}
PREDICATE = np.dtype(np.bool_)


class PtxError(Exception):
    """What the program may not do, or what this interpreter does not know. The machine adds the line and its text."""


def _table() -> dict[str, tuple[int, np.dtype]]:
    table = {"pred": (1, PREDICATE)}
    for width in UNSIGNED:
        table[f"b{width}"] = table[f"u{width}"] = (width, UNSIGNED[width])
        table[f"s{width}"] = (width, SIGNED[width])
    for width in FLOATING:
        table[f"f{width}"] = (width, FLOATING[width])
    # held as bits: numpy has no such type
    table["bf16"] = (16, UNSIGNED[16])
    table["f16x2"] = table["bf16x2"] = table["tf32"] = table["s16x2"] = table["u16x2"] = (32, UNSIGNED[32])
    return table


_TYPES = _table()


def is_type(name: str) -> bool:
    return name in _TYPES


def width_of(name: str) -> int:
    """Bits of a value of this type; 1 for a predicate."""
    return _lookup(name)[0]


def dtype_of(name: str) -> np.dtype:
    return _lookup(name)[1]


def _lookup(name: str) -> tuple[int, np.dtype]:
    if name not in _TYPES:
        raise PtxError(f"unknown type .{name}")
    return _TYPES[name]
