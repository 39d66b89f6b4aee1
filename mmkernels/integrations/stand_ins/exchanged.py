"""Classes of any name that call `F.scaled_dot_product_attention` themselves: their own code, calling our drop-in."""

from __future__ import annotations

import functools
import types
from typing import Any

import torch.nn.functional as F

from mmkernels.integrations.rebinding import is_plain, with_names
from mmkernels.integrations.stand_ins.making import finish
from mmkernels.ops.attention.api import scaled_dot_product_attention

_NAME = "scaled_dot_product_attention"

_functional = types.ModuleType("torch.nn.functional with mmkernels' attention")
_functional.__dict__.update(
    {k: v for k, v in vars(F).items() if not k.startswith("__")}, **{_NAME: scaled_dot_product_attention}
)


@functools.cache
def exchanged(cls: Any, method: str) -> Any:
    """A subclass whose `method` is this class's, but for the attention function that it calls by name; or None."""
    function: Any = getattr(cls, method, None)
    if not is_plain(function) or _NAME not in function.__code__.co_names:
        return None
    names: dict[str, Any] = {}
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if value is F:
            names[name] = _functional
        elif value is F.scaled_dot_product_attention:
            names[name] = scaled_dot_product_attention
    if not names:
        return None
    made: Any = type(cls.__name__, (cls,), {method: with_names(function, **names)})
    made.note = "its own forward, with F.scaled_dot_product_attention exchanged"
    return finish(made, cls, exchanged, cls, method)
