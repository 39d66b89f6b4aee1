"""What every instruction does, a module for each family."""

from . import bits, compare, control, convert, copy, float, integer, memory, tensor, warp, warpgroup  # noqa: F401
from .table import bind, bind_control, is_control

__all__ = ["bind", "bind_control", "is_control"]
