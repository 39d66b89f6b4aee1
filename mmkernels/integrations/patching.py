"""`patch`: a whole model on mmkernels' attention, by the ways that its modules allow, and a report of what was done."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from mmkernels.integrations import transformers as hugging_face
from mmkernels.integrations.report import Entry, PatchReport
from mmkernels.integrations.stand_ins import stand_in
from mmkernels.integrations.stand_ins.diffusion import dispatched

Undo = Callable[[], None]


def patch(model: nn.Module, policy: str = "mmkernels") -> PatchReport:
    """Run the attention of a model on mmkernels, in place: modules of torch.nn, transformers' models, and others known.

    ::

        report = mmk.patch(model)
        print(report)        # what runs on mmkernels now, and what does not, and why
        ...
        report.revert()      # the model as it was

    Parameters, buffers, hooks and `state_dict` are not touched: a module is served by a subclass of its class, and a
    transformers model by its attention implementation (`mmk.integrations.transformers.register`). A patched model can
    be copied and compiled, but not pickled whole.

    Args:
        model: any module.
        policy: "mmkernels", the one there is: mmkernels wherever it can.

    Returns:
        PatchReport: `replaced`, `skipped`, `revert()`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if policy != "mmkernels":
        raise ValueError(f'policy must be "mmkernels", got {policy!r}')
    undo: list[Undo] = []
    replaced: list[Entry] = []
    skipped: list[Entry] = []
    try:
        _set_implementation(model, undo)
        for name, module in model.named_modules():
            _serve(name, module, replaced, skipped, undo)
    except BaseException:
        PatchReport([], [], undo).revert()
        raise
    served = {entry.name for entry in replaced}
    skipped = [entry for entry in skipped if not any(name.startswith(f"{entry.name}.") for name in served)]
    return PatchReport(replaced, skipped, undo)


def _serve(name: str, module: nn.Module, replaced: list[Entry], skipped: list[Entry], undo: list[Undo]) -> None:
    cls: Any = type(module)
    if getattr(cls, "stands_in", False):
        replaced.append(Entry(name, cls.__name__, "served before"))
        return
    other = stand_in(cls)
    if isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False):
        _set(module, "use_nested_tensor", False, undo)  # padded rows stay rows
    chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
    if other is not None and not (other.by_interface and chosen != hugging_face.NAME):
        _set(module, "__class__", other, undo)
        replaced.append(Entry(name, cls.__name__, getattr(other, "note", "a forward of ours over the same parameters")))
        return
    if hasattr(module, "set_processor"):
        _serve_processor(name, module, replaced, skipped, undo)
        return
    code = _names_in(cls.forward)
    if "ALL_ATTENTION_FUNCTIONS" in code:
        if chosen == hugging_face.NAME:
            replaced.append(Entry(name, cls.__name__, f'attn_implementation="{chosen}"'))
        else:
            skipped.append(Entry(name, cls.__name__, f"nothing here can change its attn_implementation={chosen!r}"))
    elif "scaled_dot_product_attention" in code:
        skipped.append(Entry(name, cls.__name__, "calls F.scaled_dot_product_attention: use mmk.override_sdpa()"))
    elif "softmax" in code or "Softmax" in code:
        skipped.append(Entry(name, cls.__name__, "computes a softmax of its own, and its class is not known here"))
    elif stand_in(cls.__mro__[1]) is not None:
        note = f"derives from {cls.__mro__[1].__name__}, and may compute something else"
        skipped.append(Entry(name, cls.__name__, note))


def _serve_processor(name: str, module: Any, replaced: list[Entry], skipped: list[Entry], undo: list[Undo]) -> None:
    """An attention module of diffusers, by the processor that it calls. Modules share processors, so it gets a copy."""
    processor, kind = module.processor, type(module).__name__
    cls: Any = type(processor)
    other = stand_in(cls) or dispatched(cls)
    if getattr(cls, "stands_in", False):
        replaced.append(Entry(name, kind, "served before"))
    elif other is not None:
        served = copy.copy(processor)
        served.__class__ = other
        _set(module, "processor", served, undo)
        replaced.append(Entry(name, kind, f"{cls.__name__} with an attention of ours"))
    elif "scaled_dot_product_attention" in _names_in(cls.__call__):
        note = f"its {cls.__name__} calls F.scaled_dot_product_attention: use mmk.override_sdpa()"
        skipped.append(Entry(name, kind, note))
    else:
        skipped.append(Entry(name, kind, f"its {cls.__name__} is not known here"))


def _names_in(function: Any) -> tuple[str, ...]:
    """The global names and attributes that a function's code mentions."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return () if code is None else code.co_names


def _set(target: Any, name: str, value: Any, undo: list[Undo]) -> None:
    before = getattr(target, name)
    undo.append(lambda: setattr(target, name, before))
    setattr(target, name, value)


def _set_implementation(model: nn.Module, undo: list[Undo]) -> None:
    """Choose our attention function in the configurations of every transformers model inside that asks for one."""
    library = sys.modules.get("transformers.modeling_utils")
    if library is None:
        return
    outer = [part for part in model.modules() if isinstance(part, library.PreTrainedModel)]
    if not outer:
        return
    hugging_face.register()
    for config in _configurations([part.config for part in outer]):
        _set(config, "_attn_implementation_internal", config._attn_implementation_internal, undo)
    for part in outer:
        if part._can_set_attn_implementation() and part.config._attn_implementation != hugging_face.NAME:
            part.set_attn_implementation(hugging_face.NAME)


def _configurations(roots: list[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    while roots:
        config = roots.pop()
        if config is None or id(config) in seen:
            continue
        seen.add(id(config))
        yield config
        roots += [getattr(config, key, None) for key in config.sub_configs]
