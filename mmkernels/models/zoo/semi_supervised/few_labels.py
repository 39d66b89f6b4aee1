"""A task of which few pictures keep their labels."""

from __future__ import annotations

import random
from dataclasses import replace

from mmkernels.models.config import at_least, one_of
from mmkernels.models.sealed import fingerprint
from mmkernels.models.zoo.task import Task

LABELS = ("own", "group")


def few_labels(task: Task, per_class: int, seed: int) -> Task:
    """The same task with `per_class` labelled pictures of each class in training, or all where there are fewer.

    The others of training are `unlabelled`: nothing looks at their labels. Which ones is drawn with the seed.
    """
    at_least("labels per class", per_class, 1)
    rng = random.Random(f"{seed}/labels")
    by_class: dict[str, list[int]] = {}
    for row in (i for i in task.train if task.labels[i]):
        by_class.setdefault(task.labels[row], []).append(row)
    labelled = sorted(
        row for _, rows in sorted(by_class.items()) for row in rng.sample(rows, min(per_class, len(rows)))
    )
    kept = set(labelled)
    unlabelled = [row for row in task.train if row not in kept]
    seen = fingerprint(task.fingerprint, task.labels, labelled)
    return replace(task, train=labelled, unlabelled=unlabelled, fingerprint=seen)


def with_labels(task: Task, kind: str) -> Task:
    """The task with its own labels, of emoji their subgroup, or with those of emoji's "group", which are fewer.

    Raises:
        ValueError: no such kind, or the pictures are not emoji.
    """
    one_of("labels", kind, LABELS)
    if kind == "own":
        return task
    if task.corpus is None:
        raise ValueError("labels must be own where the pictures are not emoji, got group")
    return replace(task, labels=[row.group for row in task.corpus.rows])
