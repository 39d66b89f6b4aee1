"""What a page of configuration holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmkernels.models.config import SystemConfig
from mmkernels.models.recipe import TrainConfig


@dataclass(frozen=True)
class Page:
    """A system: `small` trains on two processor cores in a minute; `published` has the sizes of the papers, by name.

    `recipe` holds the objectives that the system is about, and how they are learnt at the small size.
    """

    name: str
    small: SystemConfig
    recipe: TrainConfig
    published: dict[str, SystemConfig] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The objective that the system is about."""
        return self.recipe.objectives[0][0]
