"""What a run of the zoo is about, of any source: pictures, clips of them, sounds."""

from __future__ import annotations

from mmkernels.models.captions import words
from mmkernels.models.sealed import fingerprint
from mmkernels.models.sources.clips import MOTIONS, NEXT_FRAME, Clips, narration
from mmkernels.models.sources.picture_set import PictureSet
from mmkernels.models.sources.sounds import Sounds, split_sounds
from mmkernels.models.tokenizer import WordTokenizer
from mmkernels.models.zoo.task import Pictures, Task

NAME_WORDS = 4  # of what moves; a longer name would push the frames out of a narration
JUDGED_CLIPS = 500  # about so many views of known things, where there are so many
HELD_OUT_CLIPS = 200  # a picture that is held out moves in one way, or where they are few in several
TAKES = 8  # of a kind of sound that an evaluation hears


def task_of(data: PictureSet) -> Task:
    """The task of a `PictureSet`: its captions, without tags; its labels as classes; its split.

    Vocabulary and classes come from the training side alone. No questions: those are composed of emoji.

    Raises:
        ValueError: nothing is in training, or nothing is held out.
    """
    _check_sides(data)
    texts = [text for i in data.train for text in (*data.captions[i], data.labels[i])]
    return Task(
        media=Pictures(data.pictures, data.mirror),
        captions=data.captions,
        tags=[()] * len(data.labels),
        labels=data.labels,
        train=data.train,
        held_out=data.held_out,
        tokenizer=WordTokenizer.train(texts, any_letters=True),
        fingerprint=data.fingerprint,
        licence=data.licence,
    )


def clip_task(data: PictureSet, frames: int) -> Task:
    """Clips of a source's pictures: every picture of training in every motion; what is held out stays so.

    A clip's caption says what moves and how, its class is the motion, its narration says what each frame shows.

    Raises:
        ValueError: nothing is in training, or nothing is held out.
    """
    _check_sides(data)
    motions = list(MOTIONS)
    each = min(len(motions), -(-HELD_OUT_CLIPS // len(data.held_out)))
    train = [(i, motion) for i in data.train for motion in motions]
    held_out = [
        (i, motions[(each * place + more) % len(motions)])
        for place, i in enumerate(data.held_out)
        for more in range(each)
    ]
    rows = train + held_out
    names = {i: _name(data.captions[i][0]) for i in data.train + data.held_out}
    captions = [" ".join(filter(None, (names[i], motion))) for i, motion in rows]
    narrations = [" ".join(filter(None, (names[i], narration(motion, frames)))) for i, motion in rows]
    return Task(
        media=Clips(data.pictures, [i for i, _ in rows], [motion for _, motion in rows], frames),
        captions=[(caption,) for caption in captions],
        tags=[()] * len(rows),
        labels=[motion for _, motion in rows],
        train=list(range(len(train))),
        held_out=list(range(len(train), len(rows))),
        tokenizer=WordTokenizer.train([*captions[: len(train)], *narrations[: len(train)]]),
        fingerprint=fingerprint([data.fingerprint, captions, narrations]),
        licence=data.licence,
        narrations=narrations,
        stride=len(train) // len(motions) // JUDGED_CLIPS * len(motions) + 1,  # another motion each time
    )


def sound_task() -> Task:
    """Synthesised sounds and what they are called; whole kinds are held out."""
    train, held_out = split_sounds()
    sounds = train + held_out
    captions, labels = [sound.caption for sound in sounds], [sound.label for sound in sounds]
    return Task(
        media=Sounds(sounds),
        captions=[(caption,) for caption in captions],
        tags=[()] * len(sounds),
        labels=labels,
        train=list(range(len(train))),
        held_out=list(range(len(train), len(sounds))),
        tokenizer=WordTokenizer.train([*captions[: len(train)], *labels[: len(train)]]),
        fingerprint=fingerprint([captions, labels, len(train)]),
        stride=1,
        takes=TAKES,
    )


def _name(caption: str) -> str:
    """What moves, without the word that turns to the next frame."""
    return " ".join([word for word in words(caption) if word != NEXT_FRAME][:NAME_WORDS])


def _check_sides(data: PictureSet) -> None:
    for side, rows in (("in training", data.train), ("held out", data.held_out)):
        if not rows:
            raise ValueError(f"the data has no picture {side}: nothing can be learnt or nothing judged")
