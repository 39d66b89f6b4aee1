"""The registers of a gang's lanes and the values that operands stand for.

An operand becomes a numpy array when its instruction is bound: a lasting view of the register's storage in the type of
the instruction. Executing an instruction is then a numpy call on arrays that are at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .kinds import PREDICATE, SIGNED, UNSIGNED, PtxError, dtype_of, width_of
from .memory import POISON, SHARED_BEGIN, Where
from .operands import Immediate, Not, Operand, Register, Sink, Special, Symbol, Variable, Vector
from .parse import literal

Put = Callable[[np.ndarray, Where], None]


class Registers:
    def __init__(self, lanes: int, special: dict[str, np.ndarray], address_of: Callable[[Variable], int]) -> None:
        self.lanes, self.special, self.address_of = lanes, special, address_of
        self._rows: dict[int, np.ndarray] = {}
        self._constants: dict[tuple[np.dtype, bytes], np.ndarray] = {}

    # ---- reading ----

    def read(self, operand: Operand, type_: str) -> np.ndarray:
        """The lanes' values. A register that nothing wrote so far is an error."""
        if isinstance(operand, Register):
            if operand.index not in self._rows:
                raise PtxError(f"{operand.name} is read and was never written")
            return self._typed(self._rows[operand.index], operand.name, type_)
        if isinstance(operand, Special):
            if operand.name not in self.special:
                raise PtxError(f"unknown special register {operand.name}")
            return self._typed(self.special[operand.name], operand.name, type_)
        if isinstance(operand, Immediate):
            return self.constant(_bits(operand.text, type_), type_)
        if isinstance(operand, Symbol):
            return self.constant(self.address_of(operand.variable) + operand.offset, type_)
        raise PtxError(f"not a value: {operand}")

    def predicate(self, operand: Operand) -> Callable[[], np.ndarray]:
        if isinstance(operand, Not):
            values = self.read(operand.predicate, "pred")
            return lambda: ~values
        values = self.read(operand, "pred")
        return lambda: values

    def constant(self, bits: int, type_: str) -> np.ndarray:
        dtype = dtype_of(type_)
        if dtype == PREDICATE:
            raw, value = bytes([bits & 1]), np.array(bool(bits))
        else:
            raw = (bits & ((1 << 8 * dtype.itemsize) - 1)).to_bytes(dtype.itemsize, "little")
            value = np.frombuffer(raw, dtype)
        if (dtype, raw) not in self._constants:
            self._constants[dtype, raw] = np.full(self.lanes, value)
        return self._constants[dtype, raw]

    def _typed(self, row: np.ndarray, name: str, type_: str) -> np.ndarray:
        """A view in the type of the instruction; of a wider register, its low part."""
        dtype = dtype_of(type_)
        if (row.dtype == PREDICATE) != (dtype == PREDICATE) or row.dtype.itemsize < dtype.itemsize:
            raise PtxError(f"{name} does not hold a .{type_}")
        return row.view(dtype)[:: row.dtype.itemsize // dtype.itemsize]

    # ---- writing ----

    def row(self, register: Register) -> np.ndarray:
        """The storage of a register that is going to be written: bits, of which unwritten lanes are a NaN."""
        if register.index not in self._rows:
            dtype = PREDICATE if register.width == 1 else UNSIGNED[register.width]
            self._rows[register.index] = np.full(self.lanes * dtype.itemsize, POISON, np.uint8).view(dtype)
            if register.width == 1:
                self._rows[register.index][:] = False
        return self._rows[register.index]

    def write(self, operand: Operand, type_: str) -> np.ndarray:
        """The array to write results to, for instructions whose result is as wide as the register."""
        if isinstance(operand, Sink):
            return np.empty(self.lanes, dtype_of(type_))
        if not isinstance(operand, Register) or operand.width != width_of(type_):
            raise PtxError(f"cannot hold a result of type .{type_}: {operand}")
        return self.row(operand).view(dtype_of(type_))

    def assign(self, operand: Operand, type_: str) -> Put:
        """Writes values to a register that may be wider than the type: sign- or zero-extended."""
        if isinstance(operand, Sink):
            return lambda values, where: None
        if not isinstance(operand, Register) or operand.width < width_of(type_):
            raise PtxError(f"cannot hold a result of type .{type_}: {operand}")
        out, dtype = self.row(operand), dtype_of(type_)
        if operand.width == width_of(type_):
            out = out.view(dtype)
        elif dtype.kind == "i":
            out = out.view(SIGNED[operand.width])
        else:
            dtype = UNSIGNED[8 * dtype.itemsize]

        def put(values: np.ndarray, where: Where) -> None:
            np.copyto(out, values.view(dtype), where=where)

        return put


def items(operand: Operand) -> tuple[Operand, ...]:
    """The elements of a vector operand; a plain one is its own only element."""
    return operand.items if isinstance(operand, Vector) else (operand,)


def shared_address(variable: Variable, static_bytes: int) -> int:
    """Dynamic shared memory, which has no size of its own, begins behind the static variables."""
    offset = variable.offset if variable.size else -(-static_bytes // variable.align) * variable.align
    return SHARED_BEGIN + offset


@lru_cache(maxsize=4096)
def _bits(text: str, type_: str) -> int:
    """The bits of a literal in a context of this type. Between floats a literal is a value, elsewhere it is bits."""
    exact = text[:2].lower()
    dtype = dtype_of(type_)
    if dtype.kind != "f":
        return literal(text)
    if exact in {"0f", "0d"}:
        value = np.array([literal(text)], UNSIGNED[32 if exact == "0f" else 64])
        value = value.view(np.float32 if exact == "0f" else np.float64)
        if value.dtype == dtype:
            return literal(text)
    elif "." in text or "e" in exact:
        value = np.array([float(text)])
    else:
        return literal(text)
    return int(value.astype(dtype).view(UNSIGNED[8 * dtype.itemsize])[0])
