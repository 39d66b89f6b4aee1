"""What a run of the zoo is about, of any source of pictures."""

from __future__ import annotations

from mmkernels.models.sources.picture_set import PictureSet
from mmkernels.models.tokenizer import WordTokenizer
from mmkernels.models.zoo.task import Task


def task_of(data: PictureSet) -> Task:
    """The task of a `PictureSet`: its captions, without tags; its labels as classes; its split.

    Vocabulary and classes come from the training side alone. No questions: those are composed of emoji.

    Raises:
        ValueError: nothing is in training, or nothing is held out.
    """
    for side, rows in (("in training", data.train), ("held out", data.held_out)):
        if not rows:
            raise ValueError(f"the data has no picture {side}: nothing can be learnt or nothing judged")
    texts = [text for i in data.train for text in (*data.captions[i], data.labels[i])]
    return Task(
        pictures=data.pictures,
        mirror=data.mirror,
        captions=data.captions,
        tags=[()] * len(data),
        labels=data.labels,
        train=data.train,
        held_out=data.held_out,
        tokenizer=WordTokenizer.train(texts),
        fingerprint=data.fingerprint,
        licence=data.licence,
    )
