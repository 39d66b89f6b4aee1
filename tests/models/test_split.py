"""No concept stands on both sides of the split."""

from __future__ import annotations

import random

import torch

from mmkernels.models.captions import words
from mmkernels.models.openmoji import Emoji
from mmkernels.models.questions import NAMED
from mmkernels.models.split import NEAR_DUPLICATE, PINNED, Split, concept, relatives_in_training

# Written out here again, not imported: the test must not share the split's idea of what a variant is.
VARIANTS = (
    "man woman person men women people boy girl child red blue green yellow orange purple black white brown".split()
)


def test_every_row_is_on_one_side(full_corpus):
    split = full_corpus.split
    assert sorted(split.train + split.held_out) == list(range(len(full_corpus.rows)))
    free = [row for row in full_corpus.rows if concept(row) not in PINNED]
    assert 0.1 < len(split.held_out) / len(free) < 0.2


def test_no_concept_is_on_both_sides(full_corpus):
    rows, split = full_corpus.rows, full_corpus.split
    assert not {concept(rows[i]) for i in split.train} & {concept(rows[i]) for i in split.held_out}
    assert not {split.group[i] for i in split.train} & {split.group[i] for i in split.held_out}
    assert not relatives_in_training(split).any()


def test_no_name_has_a_variant_on_the_other_side(full_corpus):
    def base(i):
        return tuple(word for word in words(full_corpus.rows[i].name) if word not in VARIANTS)

    trained = {base(i) for i in full_corpus.train if base(i)}
    leaks = [full_corpus.rows[i].name for i in full_corpus.held_out if base(i) in trained]
    assert not leaks


def test_no_picture_has_a_near_twin_on_the_other_side(full_corpus):
    pictures = full_corpus.rgba.float() / 255
    flat = (
        (pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:])
        .unfold(2, 4, 4)
        .unfold(3, 4, 4)
        .mean((4, 5))
        .flatten(1)
    )
    flat = flat - flat.mean(0)
    flat = flat / flat.norm(dim=1, keepdim=True)
    across = flat[full_corpus.held_out] @ flat[full_corpus.train].T
    assert across.max() <= NEAR_DUPLICATE + 1e-4


def test_a_random_split_would_leak(full_corpus):
    """The instrument sees leaks where there are some."""
    order = list(range(len(full_corpus.rows)))
    random.Random(0).shuffle(order)
    at_random = Split(order[225:], order[:225], full_corpus.split.group, full_corpus.split.similarity)
    assert relatives_in_training(at_random).float().mean() > 0.2


def test_families_that_cannot_be_named_unseen_are_trained(full_corpus):
    held = [full_corpus.rows[i] for i in full_corpus.held_out]
    assert not [row.name for row in held if concept(row) in PINNED or row.name in NAMED]
    assert not [row.name for row in held if row.group == "flags" and row.subgroup == "country-flag"]


def test_concepts():
    def of(name, subgroup="x"):
        return concept(Emoji("", name, (), subgroup, ""))

    assert of("woman running facing right") == of("man running") == of("person running") == "running"
    assert of("red heart", "heart") == of("broken heart", "heart") == "heart"
    assert of("flag of norway", "country-flag") == "@flag"
    assert of("three o'clock", "time") == of("six-thirty", "time") == "@clock"
    assert of("alarm clock", "time") == "alarm clock"
    assert of("man") == "man", "a name of nothing but variants keeps its words"


def test_vocabulary_comes_from_training_only(full_corpus):
    trained = {w for i in full_corpus.train for w in [*words(full_corpus.rows[i].name), *full_corpus.rows[i].tags]}
    only_held = {w for i in full_corpus.held_out for w in words(full_corpus.rows[i].name)} - trained
    known = {word for word in only_held if word in full_corpus.tokenizer}
    # Words of the question templates and of subgroup names are in the vocabulary for another reason.
    subgroup_words = {w for name in full_corpus.subgroups for w in words(name)}
    assert len(only_held) > 50 and known <= subgroup_words | {"vehicle", "person", "garment", "building", "clothes"}


def test_split_does_not_depend_on_the_state_of_any_generator(corpus):
    from mmkernels.models.corpus import load_corpus

    random.seed(1)
    torch.manual_seed(1)
    again = load_corpus(limit=300)
    assert again.split.held_out == corpus.split.held_out and again.fingerprint == corpus.fingerprint
