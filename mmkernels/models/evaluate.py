"""Evaluation: retrieval, captions and questions, each beside what chance or a simpler method reaches."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkernels.models import baselines
from mmkernels.models.augment import TRAINING_STRENGTH, augment
from mmkernels.models.batches import VqaBatch, vqa_batch
from mmkernels.models.captions import full_caption, words
from mmkernels.models.corpus import Corpus
from mmkernels.models.metrics import accuracy, caption_scores, chance, majority, percent, recall
from mmkernels.models.model import MultimodalModel
from mmkernels.models.presets import Recipe
from mmkernels.models.questions import HELD_OUT_KINDS, KINDS, SceneMaker

CHUNK = 128
VIEW_SEED, SCENE_SEED = 99, 4242  # of what the evaluation shows: other than any training seed would draw
SHOWN_MATCHES = 3
AVERAGED_VIEWS = 8
VIEW_STRIDE = 3  # every third training row is looked at in an unseen view


@dataclass(frozen=True)
class Example:
    """A generated caption beside the truth; `row` is the row number."""

    row: int
    truth: str
    caption: str


@dataclass(frozen=True)
class AnsweredGrids:
    """A batch of grids with the answers given."""

    batch: VqaBatch
    given: list[str]


@dataclass(frozen=True)
class Evaluation:
    """`results` is what JSON gets; the rest is for a report to show."""

    results: dict[str, Any]
    retrieved: dict[int, list[int]]  # held-out row: rows whose captions fit its picture best, best first
    held_out: list[Example]
    known: list[Example]
    known_views: Tensor  # (len(known), 3, 32, 32)
    grids: AnsweredGrids


@torch.no_grad()
def evaluate(model: MultimodalModel, corpus: Corpus, recipe: Recipe, grids: int = 1024) -> Evaluation:
    """Everything the demo reports about a trained model.

    Args:
        grids: how many scenes are drawn for each of the two VQA evaluations.
    """
    model.eval()
    known_rows = corpus.train[::VIEW_STRIDE]
    generator = torch.Generator().manual_seed(VIEW_SEED)
    views = augment(corpus.pictures[known_rows], corpus.mirror[known_rows], generator, TRAINING_STRENGTH)
    held_tokens = _image_tokens(model, corpus.over_white(corpus.held_out))
    view_tokens = _image_tokens(model, views)

    held_captions = _captions(model, corpus, held_tokens)
    known_captions = _captions(model, corpus, view_tokens)
    vqa, shown = _evaluate_vqa(model, corpus, recipe, grids)
    held_retrieval, retrieved = _held_out_retrieval(model, corpus, recipe, held_tokens)
    results = {
        "retrieval": {
            "held_out": held_retrieval,
            "known_views": _view_retrieval(model, corpus, recipe, known_rows, views, view_tokens),
        },
        "captions": {
            "held_out": _held_out_captions(corpus, held_captions),
            "known_views": {
                "count": len(known_rows),
                "model": caption_scores(known_captions, [corpus.rows[i].name for i in known_rows]),
            },
        },
        "labels": {"held_out": _held_out_labels(model, corpus, held_tokens)},
        "vqa": vqa,
    }
    return Evaluation(
        results=results,
        retrieved=retrieved,
        held_out=[Example(i, corpus.rows[i].name, text) for i, text in zip(corpus.held_out, held_captions)],
        known=[Example(i, corpus.rows[i].name, text) for i, text in zip(known_rows, known_captions)],
        known_views=views,
        grids=shown,
    )


def _image_tokens(model: MultimodalModel, pictures: Tensor) -> Tensor:
    return torch.cat([model.image_tower(chunk) for chunk in pictures.split(CHUNK)])


def _embed_texts(model: MultimodalModel, corpus: Corpus, recipe: Recipe, texts: list[str]) -> Tensor:
    chunks = [texts[at : at + CHUNK] for at in range(0, len(texts), CHUNK)]
    return torch.cat([model.embed_texts(corpus.tokenizer.encode(chunk, recipe.eval_tokens)) for chunk in chunks])


def _captions(model: MultimodalModel, corpus: Corpus, tokens: Tensor) -> list[str]:
    return [corpus.tokenizer.decode(ids) for chunk in tokens.split(CHUNK) for ids in model.captioner.generate(chunk)]


def _held_out_retrieval(
    model: MultimodalModel, corpus: Corpus, recipe: Recipe, tokens: Tensor
) -> tuple[dict[str, Any], dict[int, list[int]]]:
    """Among held-out emoji only: find the caption of a picture, and the picture of a caption."""
    rows = corpus.held_out
    captions = [full_caption(corpus.rows[i]) for i in rows]
    images = model.contrastive.embed_image(model.pool_image(tokens))
    texts = _embed_texts(model, corpus, recipe, captions)
    similarity = images @ texts.T
    pixels = baselines.held_out_text_similarity(corpus)
    gold = list(range(len(rows)))
    averaged = _mean_of_views(model, corpus, rows, images) @ texts.T
    best = similarity.topk(min(SHOWN_MATCHES, len(rows)), dim=1).indices.tolist()
    results = {
        "count": len(rows),
        "concepts": len({corpus.split.group[i] for i in rows}),
        "image to text": recall(similarity, gold),
        "text to image": recall(similarity.T, gold),
        "image to text, mean of views": recall(averaged, gold),
        "nearest pixel": recall(pixels, gold),
        "chance": chance(len(rows)),
    }
    return results, {row: [rows[j] for j in places] for row, places in zip(rows, best)}


def _mean_of_views(model: MultimodalModel, corpus: Corpus, rows: list[int], plain: Tensor) -> Tensor:
    """Embeddings of a picture and of augmented views of it, averaged: each view counts half as much as the picture."""
    generator = torch.Generator().manual_seed(VIEW_SEED)
    total = plain.clone()
    for _ in range(AVERAGED_VIEWS):
        views = augment(corpus.pictures[rows], corpus.mirror[rows], generator, TRAINING_STRENGTH)
        total += 0.5 * model.contrastive.embed_image(model.pool_image(_image_tokens(model, views)))
    return torch.nn.functional.normalize(total, dim=-1)


def _view_retrieval(
    model: MultimodalModel, corpus: Corpus, recipe: Recipe, rows: list[int], views: Tensor, tokens: Tensor
) -> dict[str, Any]:
    """The name of a known emoji in an unseen view, among the names of all emoji."""
    names = _embed_texts(model, corpus, recipe, [row.name for row in corpus.rows])
    similarity = model.contrastive.embed_image(model.pool_image(tokens)) @ names.T
    return {
        "count": len(rows),
        "pool": len(corpus.rows),
        "image to text": recall(similarity, rows),
        "nearest pixel": recall(baselines.view_similarity(corpus, views), rows),
        "chance": chance(len(corpus.rows)),
    }


def _held_out_captions(corpus: Corpus, captions: list[str]) -> dict[str, Any]:
    """Captions of what was never seen, beside the same captions dealt to other pictures."""
    truth = [corpus.rows[i].name for i in corpus.held_out]
    known_words = {word for i in corpus.train for word in [*words(corpus.rows[i].name), *corpus.rows[i].tags]}
    needed = [word for name in truth for word in words(name)]
    nearest = [corpus.rows[i].name for i in baselines.nearest_training_picture(corpus)]
    return {
        "count": len(truth),
        "model": caption_scores(captions, truth),
        "nearest pixel": caption_scores(nearest, truth),
        "shuffled": caption_scores(captions[1:] + captions[:1], truth),
        "words never seen in training": percent(sum(word not in known_words for word in needed) / len(needed)),
    }


def _held_out_labels(model: MultimodalModel, corpus: Corpus, tokens: Tensor) -> dict[str, Any]:
    """The subgroup of a held-out emoji, as the auxiliary head tells it."""
    truth = [corpus.rows[i].subgroup for i in corpus.held_out]
    head = model.labels(model.pool_image(tokens))[0].argmax(1).tolist()
    nearest = [corpus.rows[i].subgroup for i in baselines.nearest_training_picture(corpus)]
    return {
        "model": percent(sum(corpus.subgroups[a] == b for a, b in zip(head, truth)) / len(truth)),
        "nearest pixel": percent(sum(a == b for a, b in zip(nearest, truth)) / len(truth)),
        "majority": percent(Counter(truth).most_common(1)[0][1] / len(truth)),
    }


def _evaluate_vqa(
    model: MultimodalModel, corpus: Corpus, recipe: Recipe, grids: int
) -> tuple[dict[str, Any], AnsweredGrids]:
    makers = {
        "known": SceneMaker(corpus.rows, corpus.train, KINDS),
        "held_out": SceneMaker(corpus.rows, corpus.held_out, HELD_OUT_KINDS, fallback=corpus.train),
    }
    results, shown = {}, {}
    for name, maker in makers.items():
        results[name], shown[name] = _answer_new_grids(model, corpus, recipe, maker, grids)
    return results, shown["known"]


def _answer_new_grids(
    model: MultimodalModel, corpus: Corpus, recipe: Recipe, maker: SceneMaker, grids: int
) -> tuple[dict[str, Any], AnsweredGrids]:
    """Accuracy on scenes that training never drew, beside the majority answer and the wrong pictures."""
    rng = random.Random(SCENE_SEED)
    generator = torch.Generator().manual_seed(SCENE_SEED)
    names = list(corpus.answers)
    truth, kinds, given, blind = [], [], [], []
    first = None
    for start in range(0, grids, CHUNK):
        scenes = [maker.draw(rng) for _ in range(min(CHUNK, grids - start))]
        batch = vqa_batch(corpus, scenes, generator, recipe.question_tokens)
        said = [names[i] for i in model.answerer(batch.pictures, batch.questions).argmax(1).tolist()]
        first = first or AnsweredGrids(batch, said)
        given += said
        wrong = batch.pictures.roll(1, 0)
        blind += [names[i] for i in model.answerer(wrong, batch.questions).argmax(1).tolist()]
        truth += [question.answer for scene in scenes for question in scene.questions]
        kinds += [question.kind for scene in scenes for question in scene.questions]
    if first is None:
        raise ValueError(f"grids must be at least 1, got {grids}")
    results = {
        "grids": grids,
        "questions": len(truth),
        "model": accuracy(given, truth, kinds),
        "majority": majority(truth, kinds),
        "shuffled pictures": accuracy(blind, truth, kinds),
    }
    return results, first
