"""Stand-ins: for a module class of another library, a subclass whose forward runs on mmkernels, found by its full name.

A module is served by changing its class, so parameters, hooks and flags stay what they are, and taken back by changing
it back. Only the very class is known, not what derives from it: that may have a forward of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mmkernels.integrations.stand_ins import bert, detection, diffusion, perceiver, qwen_vision, sam, t5, torch_nn
from mmkernels.integrations.stand_ins.making import finish

StandIn = Callable[[Any], type]

_TABLE: dict[str, StandIn] = {
    name: make
    for room in (torch_nn, bert, detection, diffusion, perceiver, qwen_vision, sam, t5)
    for name, make in room.SERVES.items()
}


@functools.cache
def stand_in(cls: Any) -> Any:
    """The subclass that serves modules of exactly this class, or None."""
    make = _TABLE.get(f"{cls.__module__}.{cls.__qualname__}")
    if make is None:
        return None
    made: Any = make(cls)
    made.by_interface = make in t5.SERVES.values()  # its forward calls the attention function that is registered
    return finish(made, cls, stand_in, cls)
