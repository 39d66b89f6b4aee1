"""Synthesised clips move as their captions say."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models.sources.clips import MOTIONS, NEXT_FRAME, ClipMaker, narration

SIZE = 32  # of the source's pictures


def one_of_each(source, frames=3):
    """The first clip of every motion: {motion: (T, 3, S, S)}."""
    found = {}
    maker = ClipMaker(source, batch=64, frames=frames)
    for step in range(20):
        batch = maker.batch(step)
        for clip, motion in zip(batch.frames, batch.motions):
            found.setdefault(motion, clip)
        if len(found) == len(MOTIONS):
            return found
    raise AssertionError("some motions never came")


def centre(frame, visible):
    """Mean (x, y) of pixels, -1 to 1."""
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    weight = visible(frame).float()
    total = weight.sum()
    return (weight.sum(0) @ line / total).item(), (weight.sum(1) @ line / total).item()


def square_of(frame):
    return (frame - frame[:, :1, :1]).abs().amax(0) > 0.04  # unlike the background


def dot_of(frame):
    return frame.amax(0) < 0.25


def red_dot_of(frame):
    return (frame[0] > 0.6) & (frame[1:].amax(0) < 0.3)


def test_motions_are_what_they_are_called(source):
    clips = one_of_each(source)
    path = {motion: [centre(frame, square_of) for frame in clip] for motion, clip in clips.items()}
    (x0, y0), (x1, y1), (x2, y2) = path["moves to the right"]
    assert x0 < -0.3 < x1 < 0.3 < x2 and abs(y0) + abs(y1) + abs(y2) < 0.1
    assert path["moves to the left"][0][0] > 0.3 and path["moves to the left"][2][0] < -0.3
    assert path["moves down"][0][1] < -0.3 and path["moves down"][2][1] > 0.3
    assert path["moves up"][0][1] > 0.3 and path["moves up"][2][1] < -0.3
    areas = {motion: [square_of(frame).sum().item() for frame in clip] for motion, clip in clips.items()}
    small, middle, large = areas["grows"]
    assert small * 1.5 < middle and middle * 1.3 < large
    assert areas["shrinks"][0] > 2 * areas["shrinks"][2]
    assert torch.equal(clips["stays in the middle"][0], clips["stays in the middle"][2])


def test_turning(source):
    clips = one_of_each(source)
    for motion, side in (("turns clockwise", 1), ("turns counterclockwise", -1)):
        (x0, y0), (x1, y1), (x2, y2) = (centre(frame, dot_of) for frame in clips[motion])
        assert y0 < -0.2 and abs(x0) < 0.1, "upright"
        assert x1 * side > 0.2 and abs(y1) < 0.1, "on its side"
        assert y2 > 0.2 and abs(x2) < 0.1, "upside down"
        (x0, y0), (x1, y1), (x2, y2) = (centre(frame, red_dot_of) for frame in clips[motion])
        assert x0 < -0.2 and y1 * side < -0.2 and x2 > 0.2, "turned, not mirrored"


def test_texts(source):
    batch = ClipMaker(source, batch=64).batch(0)
    names = {source.captions[i][0] for i in batch.rows}
    assert {"dot", "A toy.", "象"} <= names and "cube" not in names
    for row, motion, caption, told in zip(batch.rows, batch.motions, batch.captions, batch.narrations):
        name = {"A toy.": "a toy ", "象": ""}.get(source.captions[row][0], source.captions[row][0] + " ")
        assert caption == name + motion and told == name + narration(motion, 3)
    assert narration("moves to the left", 3) == "at the right then in the middle then at the left"
    assert narration("grows", 2) == "small then large"
    assert narration("grows", 4) == "small then medium then medium then large"
    five = ["at the top", "at the top", "in the middle", "at the bottom", "at the bottom"]
    assert narration("moves down", 5).split(f" {NEXT_FRAME} ") == five
    held = ClipMaker(source, batch=8, held_out=True).batch(0)
    assert all("cube" in caption for caption in held.captions)


def test_batches_are_a_function_of_seed_and_step(source):
    one, other = ClipMaker(source, seed=3), ClipMaker(source, seed=3)
    one.batch(0)
    torch.manual_seed(9)
    a, b = one.batch(5), other.batch(5)
    assert torch.equal(a.frames, b.frames) and a.narrations == b.narrations and a.rows == b.rows
    assert a.frames.shape == (16, 3, 3, SIZE, SIZE) and 0 <= a.frames.min() and a.frames.max() <= 1
    assert not torch.equal(a.frames, ClipMaker(source, seed=4).batch(5).frames)
    assert not torch.equal(a.frames, one.batch(6).frames)


def test_wrong_arguments(source):
    with pytest.raises(ValueError, match="frames of at least 2"):
        ClipMaker(source, frames=1)
    with pytest.raises(ValueError, match="no picture held out"):
        ClipMaker(source.subset([0, 1]), held_out=True)
