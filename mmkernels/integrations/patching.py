"""`patch`: a whole model on mmkernels' attention, by the ways that its modules allow, and a report of what was done."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from mmkernels.integrations import transformers as hugging_face
from mmkernels.integrations.paths import Entry
from mmkernels.integrations.policy import PADDING_LEFT_OUT, POLICIES, why_not
from mmkernels.integrations.report import PatchReport
from mmkernels.integrations.stand_ins import stand_in
from mmkernels.integrations.stand_ins.diffusion import dispatched
from mmkernels.integrations.stand_ins.exchanged import exchanged

Undo = Callable[[], None]

_MARK = "_mmkernels"
_BY_INTERFACE = "ALL_ATTENTION_FUNCTIONS"  # what transformers' modules look their attention function up in


def patch(model: nn.Module, policy: str = "mmkernels") -> PatchReport:
    """Run the attention of a model on mmkernels, in place: torch.nn, transformers, diffusers, others known.

    ::

        report = mmk.patch(model)
        print(report)        # what runs on mmkernels now, and what does not, and why
        ...
        report.revert()      # the model as it was

    Parameters, buffers, hooks and `state_dict` are not touched: a module is served by a subclass of its class, and a
    transformers model by its attention implementation (`mmk.integrations.transformers.register`). A patched model can
    be copied, pickled, compiled, moved and wrapped (DDP, FSDP); who unpickles it needs mmkernels too.

    Args:
        model: any module.
        policy: "mmkernels" serves whatever it can. "fastest" leaves alone what is not expected to be faster, by the
            benchmarks of this repository and what is known without running: everything that is not on the CPU now, and
            the modules and dtypes measured to be slower. The report says which, and why.

    Returns:
        PatchReport: `replaced`, `skipped`, `paths(run)`, `revert()`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if policy not in POLICIES:
        raise ValueError(f'policy must be "mmkernels" or "fastest", got {policy!r}')
    work = _Work(policy == "fastest")
    try:
        work.set_implementation(model)
        for name, module in model.named_modules():
            work.serve(name, module)
    except BaseException:
        PatchReport(model, [], [], work.undo).revert()
        raise
    served = {entry.name for entry in work.replaced}
    skipped = [entry for entry in work.skipped if not any(name.startswith(f"{entry.name}.") for name in served)]
    return PatchReport(model, work.replaced, skipped + work.left_alone, work.undo)


class _Work:
    """One run of `patch`: what was done and what was not so far, and how to undo it."""

    def __init__(self, fastest: bool) -> None:
        self.fastest = fastest
        self.undo: list[Undo] = []
        self.replaced: list[Entry] = []
        self.skipped: list[Entry] = []  # by what their code mentions
        self.left_alone: list[Entry] = []  # by policy
        self.left: dict[str, str] = {}  # why everything whose name begins so is left alone

    def serve(self, name: str, module: nn.Module) -> None:
        cls: Any = _beneath_shards(type(module))
        code = _names_in(cls.forward)
        if getattr(cls, "stands_in", False):
            self.replaced.append(Entry(name, cls.__name__, "served before"))
            return
        if isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False):
            if self.fastest and not module.training:
                self.left[f"{name}." if name else ""] = PADDING_LEFT_OUT
            elif self._why_not(module) is None:
                self._set(module, "use_nested_tensor", False)  # padded rows stay rows
        chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
        other = stand_in(cls)
        if other is None and _BY_INTERFACE not in code and not hasattr(module, "set_processor"):
            other = exchanged(cls, "forward")
        if other is not None and (chosen == hugging_face.NAME or not getattr(other, "by_interface", False)):
            if not self._declines(name, module, other):
                self._set_class(module, cls, other)
                note = getattr(other, "note", "a forward of ours over the same parameters")
                self.replaced.append(Entry(name, cls.__name__, note))
        elif hasattr(module, "set_processor"):
            self._serve_processor(name, module)
        elif _BY_INTERFACE in code and chosen == hugging_face.NAME:
            self.replaced.append(Entry(name, cls.__name__, f'attn_implementation="{chosen}"'))
        elif _BY_INTERFACE in code:
            if not self._declines(name, module):
                note = f"nothing here can change its attn_implementation={chosen!r}"
                self.skipped.append(Entry(name, cls.__name__, note))
        elif (reason := _why_skipped(cls, code)) is not None:
            self.skipped.append(Entry(name, cls.__name__, reason))

    def _serve_processor(self, name: str, module: Any) -> None:
        """An attention module of diffusers, by the processor that it calls; a copy, since modules share processors."""
        processor, kind = module.processor, type(module).__name__
        cls: Any = type(processor)
        other = stand_in(cls) or dispatched(cls) or exchanged(cls, "__call__")
        if getattr(cls, "stands_in", False):
            self.replaced.append(Entry(name, kind, "served before"))
        elif other is not None:
            if not self._declines(name, module, other):
                served = copy.copy(processor)
                served.__class__ = other
                self._set(module, "processor", served)
                self.replaced.append(Entry(name, kind, f"{cls.__name__} with an attention of ours"))
        elif "scaled_dot_product_attention" in _names_in(cls.__call__):
            note = f"its {cls.__name__} calls F.scaled_dot_product_attention: use mmk.override_sdpa()"
            self.skipped.append(Entry(name, kind, note))
        else:
            self.skipped.append(Entry(name, kind, f"its {cls.__name__} is not known here"))

    def _why_not(self, module: nn.Module, served_as: Any = None) -> str | None:
        return why_not(module, served_as) if self.fastest else None

    def _declines(self, name: str, module: nn.Module, served_as: Any = None) -> bool:
        """Whether the policy leaves alone a module that could be served; the report says so."""
        inside = next((reason for prefix, reason in self.left.items() if name.startswith(prefix)), None)
        reason = self._why_not(module, served_as) or inside
        if reason is not None:
            self.left_alone.append(Entry(name, type(module).__name__, f'left alone by policy "fastest": {reason}'))
        return reason is not None

    def _set(self, target: Any, name: str, value: Any) -> None:
        before = getattr(target, name)
        self.undo.append(lambda: setattr(target, name, before))
        setattr(target, name, value)

    def _set_class(self, module: Any, cls: Any, other: Any) -> None:
        before: Any = type(module)
        served = _with_base(before, cls, other)

        def back() -> None:
            now: Any = type(module)  # derived from `served`, perhaps, where it was sharded since
            module.__class__ = _with_base(now, served, before)

        self.undo.append(back)
        module.__class__ = served

    def set_implementation(self, model: nn.Module) -> None:
        """Choose our attention function in the configurations of every transformers model inside that asks for one."""
        library = sys.modules.get("transformers.modeling_utils")
        if library is None:
            return
        outer = [part for part in model.modules() if isinstance(part, library.PreTrainedModel)]
        outer = [part for part in outer if self._why_not(part) is None]
        if not outer:
            return
        hugging_face.register()
        for config in _configurations([part.config for part in outer]):
            self._set(config, "_attn_implementation_internal", config._attn_implementation_internal)
        for part in outer:
            if part._can_set_attn_implementation() and part.config._attn_implementation != hugging_face.NAME:
                part.set_attn_implementation(hugging_face.NAME)
            self._mark(part)

    def _mark(self, part: Any) -> None:
        """Let unpickling this model register our attention, which a configuration names but does not hold."""
        if not hasattr(part, _MARK):
            self.undo.append(lambda: delattr(part, _MARK))
            setattr(part, _MARK, hugging_face.Registered())


def _why_skipped(cls: type, code: tuple[str, ...]) -> str | None:
    """What gives away a class that computes attention in a way that nobody serves; None where nothing does."""
    if "scaled_dot_product_attention" in code:
        return "calls F.scaled_dot_product_attention: use mmk.override_sdpa()"
    if "softmax" in code or "Softmax" in code:
        return "computes a softmax of its own, and its class is not known here"
    if stand_in(cls.__mro__[1]) is not None:
        return f"derives from {cls.__mro__[1].__name__}, and may compute something else"
    return None


def _beneath_shards(cls: Any) -> Any:
    """The class of a module; where torch's fully_shard derived one from it, which has no forward, the class before."""
    sharded = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    if (
        sharded is None
        or len(cls.__bases__) != 2
        or "forward" in vars(cls)
        or not issubclass(cls.__bases__[0], sharded)
    ):
        return cls
    return cls.__bases__[1]


@functools.cache
def _with_base(now: Any, base: Any, other: Any) -> Any:
    """`other` where a class is `base`; where another library derived it from `base`, a class like it of `other`."""
    if base not in now.__bases__:
        return other if now is base else now
    bases = tuple(other if each is base else each for each in now.__bases__)
    own = {name: value for name, value in vars(now).items() if name not in ("__dict__", "__weakref__")}
    return type(now.__name__, bases, own)


def _names_in(function: Any) -> tuple[str, ...]:
    """The global names and attributes that a function's code mentions."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return () if code is None else code.co_names


def _configurations(roots: list[Any]) -> Iterator[Any]:
    seen: set[int] = set()
    while roots:
        config = roots.pop()
        if config is None or id(config) in seen:
            continue
        seen.add(id(config))
        yield config
        roots += [getattr(config, key, None) for key in config.sub_configs]
