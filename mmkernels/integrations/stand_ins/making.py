"""What every stand-in has: the name of the class that it serves, and objects that can be pickled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def finish(made: Any, cls: Any, again: Callable[..., Any], *arguments: Any) -> Any:
    """Give a stand-in for `cls` what it needs beside its forward.

    Args:
        made: the stand-in, which no module holds under its name.
        again: a function of a module that returns `made` for these arguments; pickles name it instead of the class.
    """
    made.stands_in = True
    made.__name__, made.__qualname__, made.__module__ = cls.__name__, cls.__qualname__, __name__

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        how, (_, *given), *state = super(made, self).__reduce_ex__(max(2, protocol))
        if type(self) is not made:  # derived in turn, by another library: its own affair
            return how, (type(self), *given), *state
        return _blank, (again, arguments, *given), *state

    made.__reduce_ex__ = __reduce_ex__
    return made


def _blank(again: Callable[..., Any], arguments: tuple[Any, ...], *given: Any) -> Any:
    cls = again(*arguments)
    return cls.__new__(cls, *given)
