"""Families, the split by family, subsets, and the one way to every source."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models import sources
from mmkernels.models.sources.picture_set import Entry, assemble, near_duplicates, spread
from mmkernels.models.split import picture_similarity, relatives_in_training


def random_pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(count, 4, 4, 4, generator=generator)
    blocks[:, 3] = 1
    return list(blocks.repeat_interleave(4, 2).repeat_interleave(4, 3))


def entries(groups, sides=None):
    sides = sides or [""] * len(groups)
    return [Entry((f"a {group}",), group, group, True, side=side) for group, side in zip(groups, sides)]


def made(groups, sides=None, pictures=None, pinned=()):
    return assemble(entries(groups, sides), pictures or random_pictures(len(groups)), [], "free", set(pinned))


def test_whole_families_are_held_out():
    x = made([f"g{i // 3}" for i in range(120)])
    assert 0.1 < len(x.held_out) / 120 < 0.2 and sorted(x.train + x.held_out) == list(range(120))
    assert not {x.groups[i] for i in x.train} & {x.groups[i] for i in x.held_out}
    assert not relatives_in_training(x.split).any() and not x.notes


def test_near_twins_are_one_family_whatever_their_groups():
    pictures = random_pictures(60)
    for i in range(30):
        pictures[2 * i + 1] = (pictures[2 * i] * 0.99).clamp(0, 1)
    x = made([f"g{i}" for i in range(60)], pictures=pictures)
    assert x.held_out and all(x.groups[2 * i] == x.groups[2 * i + 1] for i in range(30))
    held = set(x.held_out)
    assert all((2 * i in held) == (2 * i + 1 in held) for i in range(30))


def test_kin_are_one_family():
    rows = [Entry((f"{i}",), "x", f"g{i}", True, kin=f"k{i % 5}") for i in range(10)]
    x = assemble(rows, random_pictures(10), [], "free", set())
    assert len(set(x.groups)) == 5 and all(x.groups[i] == x.groups[i + 5] for i in range(5))


def test_equal_pictures_are_twins_even_where_there_are_no_others():
    same = torch.stack([torch.ones(4, 16, 16)] * 3)
    assert near_duplicates(same, picture_similarity(same)) == [(0, 1), (0, 2)]


def test_unlike_pictures_of_a_small_set_are_not_twins():
    dark, light = torch.zeros(4, 16, 16), torch.ones(4, 16, 16)
    dark[3] = 1
    first, second = light.clone(), light.clone()
    first[:3, :8], second[:3, 8:] = 0.84, 0.84
    pictures = torch.stack([first, second, *[dark + i * 1e-3 for i in range(6)]])
    similarity = picture_similarity(pictures)
    assert similarity[0, 1] > 0.97
    assert (0, 1) not in near_duplicates(pictures, similarity)


def test_white_things_on_white_are_not_twins():
    left, right = torch.zeros(4, 16, 16), torch.zeros(4, 16, 16)
    left[:, :, :8], right[:, :, 8:] = 1, 1
    pictures = torch.stack([left, right, *random_pictures(20)])
    similarity = picture_similarity(pictures)
    assert similarity[0, 1] > 0.97
    assert near_duplicates(pictures, similarity) == []


def test_pinned_groups_stay_in_training():
    groups = [f"g{i % 40}" for i in range(80)]
    assert made(groups).held_out, "otherwise the test says nothing"
    pinned = {made(groups).groups[i] for i in made(groups).held_out}
    x = made(groups, pinned=pinned)
    assert x.held_out and not pinned & {x.groups[i] for i in x.held_out}


@pytest.mark.parametrize(
    ("groups", "held_out"), [(["a"] * 30 + ["b"] * 20, 20), (["a"] * 30 + ["b"] * 25 + ["c"] * 28, 25), (["a", "b"], 1)]
)
def test_the_smallest_family_is_held_out_where_all_are_large(groups, held_out):
    assert len(made(groups).held_out) == held_out


def test_one_family_cannot_be_split():
    x = made(["a"] * 9)
    assert not x.held_out and x.notes == ["nothing is held out"]


def test_the_users_split_is_kept_and_its_leaks_are_said():
    x = made(["a", "a", "b", "c"], ["train", "held_out", "held_out", ""])
    assert (x.train, x.held_out) == ([0, 3], [1, 2])
    assert any("1 rows have no side" in note for note in x.notes)
    assert any("the family 'a' is on both sides" in note for note in x.notes)


def test_the_split_is_deterministic_and_the_fingerprint_sees_everything():
    groups = [f"g{i}" for i in range(40)]
    x = made(groups)
    torch.manual_seed(5)
    assert made(groups).held_out == x.held_out and made(groups).fingerprint == x.fingerprint
    touched = random_pictures(40)
    touched[7][0, 0, 0] += 1e-3
    others = [made(groups, pictures=touched), made([*groups[:-1], "other"]), x.subset(range(39))]
    assert len({x.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_subset_keeps_every_row_on_its_side():
    x = made([f"g{i // 2}" for i in range(80)])
    keep = [*range(0, 80, 3), 1]
    y = x.subset(keep, ["a note"])
    assert len(y) == len(keep) and y.captions == [x.captions[i] for i in keep]
    assert {keep[i] for i in y.held_out} == set(x.held_out) & set(keep)
    assert sorted(y.train + y.held_out) == list(range(len(keep)))
    assert torch.equal(y.pictures, x.pictures[keep]) and y.notes[-1] == "a note"
    assert torch.equal(y.split.similarity, x.split.similarity[keep][:, keep])


def test_views_of_a_set():
    x = made(["b", "a", "b", "c"])
    assert x.size == 16 and set(x.classes) == {x.labels[i] for i in x.train} and x.classes == sorted(x.classes)
    assert x.over_white([1, 2]).shape == (2, 3, 16, 16)


def test_spread():
    assert spread(5, None) == spread(5, 5) == spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(10, 3) == [0, 3, 6] and spread(0, 3) == []


# ---- load ----


def test_openmoji_is_the_corpus(corpus):
    x = sources.load("openmoji", size=32, limit=300)
    assert torch.equal(x.pictures, corpus.pictures) and torch.equal(x.mirror, corpus.mirror)
    assert (x.train, x.held_out, x.split.group) == (corpus.train, corpus.held_out, corpus.split.group)
    assert all(x.captions[i][0] == row.name and x.labels[i] == row.subgroup for i, row in enumerate(corpus.rows))
    assert not {x.groups[i] for i in x.train} & {x.groups[i] for i in x.held_out}
    assert "CC BY-SA 4.0" in x.licence


def test_openmoji_at_other_sizes(corpus):
    small, large = sources.load("openmoji", size=16, limit=100), sources.load("openmoji", size=96, limit=100)
    assert small.size == 16 and large.size == 96 and small.captions == large.captions and not small.notes
    assert "enlarged to 96" in large.notes[0]
    assert (large.pictures[:, :3] <= large.pictures[:, 3:] + 1e-6).all()
    again = torch.nn.functional.interpolate(large.pictures, (16, 16), mode="area")
    assert (again - small.pictures).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (
            {"name_or_path": "openmojo"},
            ValueError,
            "no source or folder 'openmojo'; the sources are openmoji, tuxpaint",
        ),
        ({"name_or_path": "openmoji", "size": 7}, ValueError, "size must be from 8 to 1024"),
        ({"name_or_path": "openmoji", "size": 1024}, ValueError, "1,918 pictures of 1024 x 1024 pixels take 30 GiB"),
        ({"name_or_path": "openmoji", "size": 32.0}, TypeError, "size must be an int"),
        ({"name_or_path": "openmoji", "limit": 0}, ValueError, "limit must be at least 1"),
        ({"name_or_path": "openmoji", "limit": True}, TypeError, "limit must be an int"),
        ({"name_or_path": "openmoji", "languages": ("en",)}, TypeError, "openmoji has no option 'languages'"),
        (
            {"name_or_path": ".", "stamps": "x"},
            TypeError,
            "folder of pictures has no option 'stamps': it has max_pixels",
        ),
        ({"name_or_path": ".", "max_pixels": 0}, ValueError, "max_pixels must be a positive int"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        sources.load(**arguments)
