"""Runs to the end, and what is compared of them bit for bit; the arguments of a command without its parser's others."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from mmkernels.models.zoo.training import Trainer


def state(trainer: Trainer) -> dict[str, Any]:
    """Everything that a checkpoint holds."""
    saved = trainer.checkpoint()
    groups = {group: getattr(saved, group) for group in saved.GROUPS}
    tensors = {f"{group}/{name}": t.clone() for group, part in groups.items() for name, t in part.items()}
    return {**tensors, "rng": saved.torch_rng, "facts": (saved.step, saved.best_loss, saved.stale, saved.stopped)}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys()
    facts = a.pop("facts"), b.pop("facts")
    assert facts[0] == facts[1]
    assert not [name for name in a if not torch.equal(a[name], b[name])]


def finish(trainer: Trainer) -> Trainer:
    """All of its steps."""
    while not trainer.finished:
        trainer.train_step()
    return trainer


def arguments(text: str, add: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """What the command line makes of a text."""
    parser = argparse.ArgumentParser()
    add(parser)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--backend")
    parser.add_argument("--threads", type=int)
    return parser.parse_args(text.split())
