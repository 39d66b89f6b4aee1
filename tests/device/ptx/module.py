"""PTX text as something to launch."""

from __future__ import annotations

import numpy as np

from .kinds import PtxError
from .lower import Kernel, lower
from .machine import Launch, Report, run
from .memory import Memory
from .parse import Declaration, parse

Argument = np.generic | np.ndarray | bytes


class Module:
    """
    ::

        module = Module(ptx_text)
        out = np.zeros(64, np.float32)
        module.launch("kernel", (2, 1, 1), (32, 1, 1), args=[out, np.int32(64)])

    An argument is a numpy scalar of the parameter's size, an array (global memory, read and written in place), an
    address from `memory.register` with or without bytes added, or the bytes of a struct.
    """

    def __init__(self, text: str, memory: Memory | None = None) -> None:
        self.program = parse(text)
        self.memory = memory or Memory()
        self.kernels = [name for name, function in self.program.functions.items() if function.is_kernel]
        self._lowered: dict[str, Kernel] = {}
        self._variables: dict[str, int] = {}

    def find(self, name: str) -> str:
        """The one kernel with this name, or with it in its name."""
        found = [each for each in self.kernels if each == name] or [each for each in self.kernels if name in each]
        if len(found) != 1:
            raise KeyError(f"{len(found)} kernels match {name!r}: {found or self.kernels}")
        return found[0]

    def kernel(self, name: str) -> Kernel:
        name = self.find(name)
        if name not in self._lowered:
            self._lowered[name] = lower(self.program, name)
        return self._lowered[name]

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared_bytes: int = 0,
        args: list[Argument] | None = None,
        seed: int = 0,
        limit: int = 20_000_000,
    ) -> Report:
        """Runs to the end; `seed` decides the order of blocks and warps and when asynchronous copies land."""
        kernel = self.kernel(name)
        most = self.program.functions[kernel.name].most_threads
        if most and np.prod(block) > most:
            raise PtxError(f"{kernel.name} is compiled for {most} threads")
        for each in kernel.constants:
            self._place(each)
        parameters = self._parameters(kernel, list(args or []))
        rng = np.random.default_rng(seed)
        return run(Launch(kernel, self.memory, self._variables, grid, block, shared_bytes, parameters, rng, limit))

    def _place(self, each: Declaration) -> None:
        """Variables of the module keep their values from launch to launch."""
        if each.name not in self._variables and not each.external:
            data = np.frombuffer(each.data or bytes(each.size), np.uint8).copy()
            data.flags.writeable = each.space == "global"
            self._variables[each.name] = int(self.memory.register(data, f".{each.space} {each.name}"))

    def _parameters(self, kernel: Kernel, args: list[Argument]) -> np.ndarray:
        if len(args) != len(kernel.parameters):
            raise PtxError(f"{kernel.name} takes {len(kernel.parameters)} arguments, not {len(args)}")
        data = np.zeros(-(-kernel.parameter_bytes // 16) * 16, np.uint8)
        for position, (argument, parameter) in enumerate(zip(args, kernel.parameters)):
            raw = self._bytes(argument)
            if len(raw) != parameter.size:
                raise PtxError(f"argument {position} has {len(raw)} bytes, the parameter {parameter.size}")
            data[parameter.offset : parameter.offset + parameter.size] = np.frombuffer(raw, np.uint8)
        return data

    def _bytes(self, argument: Argument) -> bytes:
        if isinstance(argument, np.ndarray):
            argument = self.memory.register(argument)
        return argument if isinstance(argument, bytes) else argument.tobytes()
