"""Which backend each op of the model runs on, when the user names one."""

from __future__ import annotations

from dataclasses import dataclass

from mmkernels.backend import backends, check_name

OPS = ("attention", "concat_fusion", "contrastive_loss")


@dataclass(frozen=True)
class Backends:
    """A backend per op; None leaves the choice to the dispatcher, call by call."""

    attention: str | None = None
    fusion: str | None = None
    contrastive: str | None = None

    @classmethod
    def choose(cls, name: str | None) -> Backends:
        """What `--backend NAME` means for a model.

        The named backend serves every op it has kernels for; an op that it does not have is left to the dispatcher,
        and `describe` says so. Attention, the op this model is about, must be among those it has.

        Raises:
            ValueError: no such backend, or it cannot run attention here.
        """
        check_name(name)
        if name is None:
            return cls()
        entry = backends()[name]
        if "attention" not in entry["ops"]:
            raise ValueError(
                f'backend "{name}" cannot run here: {"; ".join(entry["reasons"]) or "it has no attention"}'
            )
        return cls(*(name if op in entry["ops"] else None for op in OPS))

    def describe(self) -> dict[str, str]:
        """Op: the backend named for it, or "best available"."""
        return {op: name or "best available" for op, name in zip(OPS, (self.attention, self.fusion, self.contrastive))}
