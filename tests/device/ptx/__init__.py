"""An interpreter of PTX, the assembly that nvcc and Triton emit, in numpy.

    parse.py -> lower.py       text to functions, functions to a flat kernel with resolved operands
    module.py                  the interface: Module(text).launch(...)
    machine.py, gang.py        the grid, its random order, divergence; barriers.py, async_copies.py
    memory.py, registers.py    state spaces with their checks, registers and operands
    instructions/              what every instruction does

It executes one legal order of many and no timing: neither the weak order of memory, nor the order in which a tensor
core adds, nor the errors of .approx functions are modelled.
"""

from .kinds import PtxError
from .memory import Memory
from .module import Module

__all__ = ["Memory", "Module", "PtxError"]
