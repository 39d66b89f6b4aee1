"""A library's function with another meaning for some of the global names that it mentions."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


def with_names(function: Any, **names: Any) -> Callable[..., Any]:
    """The same Python function, for which these global names mean something else."""
    made = types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, closure=function.__closure__
    )
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return made


def is_plain(function: Any) -> bool:
    """Whether a method is a Python function as it was written, without decorators that rebinding would lose."""
    return isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__")
