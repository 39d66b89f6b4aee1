"""A library's function with another meaning for some of the global names that it mentions."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


def with_names(function: Any, **names: Any) -> Callable[..., Any]:
    """The same Python function, for which these global names mean something else."""
    scope = {**function.__globals__, **names}
    # By this name torch.compile would look for the others in the module, where they still mean what they did.
    scope.pop("__name__", None)
    made = types.FunctionType(function.__code__, scope, function.__name__, closure=function.__closure__)
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    made.__module__ = function.__module__
    return made


def is_plain(function: Any) -> bool:
    """Whether a method is a Python function as it was written, without decorators that rebinding would lose."""
    return isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__")
