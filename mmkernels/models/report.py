"""One HTML file with everything a run has to show: numbers beside their baselines, pictures, plots, attention maps."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkernels.files import write_atomically
from mmkernels.models import figures
from mmkernels.models.attention_maps import caption_maps, question_maps
from mmkernels.models.corpus import Corpus
from mmkernels.models.evaluate import Evaluation, Example
from mmkernels.models.html_page import card, cards, page, paragraph, plot, section, table
from mmkernels.models.model import MultimodalModel
from mmkernels.models.openmoji import ATTRIBUTION
from mmkernels.models.questions import PER_SCENE
from mmkernels.models.tables import comparison_table, evaluation_tables
from mmkernels.models.tokenizer import Tokens

SHOWN = 10  # examples of a kind
SHOWN_GRIDS = 6
SHOWN_MAPS = 4
EXAMPLE_SEED = 5  # which examples are shown; they are drawn, not chosen
SECTIONS = ("summary", "data", "retrieval", "captions", "questions", "attention", "training", "comparison", "limits")


@dataclass(frozen=True)
class Story:
    """What the report is about. `comparison` is None where a run was not compared with the naive path."""

    corpus: Corpus
    model: MultimodalModel
    evaluation: Evaluation
    history: dict[str, list[list[float]]]
    about: dict[str, str]
    comparison: dict[str, Any] | None = None


def write_report(story: Story, path: Path) -> None:
    """Writes the report, whole or not at all."""
    write_atomically(path, render(story).encode())


def render(story: Story) -> str:
    """The report as HTML: one document, no other file, no script."""
    story.model.eval()
    parts = ["<h1>mmkernels: the reference multimodal model</h1>", paragraph(_claim(), "note")]
    parts += [
        section("summary", "Summary", _summary(story)),
        section("data", "Data", _data(story.corpus)),
        section("retrieval", "Retrieval of held-out concepts", _retrieval(story)),
        section("captions", "Captions", _captions(story)),
        section("questions", "Questions about grids", _questions(story)),
        section("attention", "What each word looks at", _attention(story)),
        section("training", "Training", [plot(figures.loss_curves(story.history), "losses by step")]),
        section("comparison", "Fused and naive", _comparison(story.comparison)),
        section("limits", "Limits", [paragraph(text) for text in LIMITS]),
        f"<footer>{paragraph(ATTRIBUTION)}</footer>",
    ]
    return page("mmkernels demo", parts)


LIMITS = (
    "Captions of held-out concepts are not usable: a third of their words never occur in training. They are shown "
    "because that is what the model does.",
    "Retrieval of held-out concepts is well above chance and far from good. Finding the nearest training picture by "
    "pixels and comparing its words is a strong baseline here, because OpenMoji's style is so uniform.",
    "The questions are generated from templates about generated scenes; they test whether the picture is used, not "
    "whether people's questions can be answered.",
    "A few minutes on two processor cores: the model shows that the kernels train something real, no more.",
)


def _claim() -> str:
    return (
        "Examples are drawn at random, not chosen. Every figure stands beside chance, the majority answer, or what the "
        "nearest picture by pixels would have given."
    )


def _summary(story: Story) -> list[str]:
    about = table("The run", ["", ""], [[name, value] for name, value in story.about.items()])
    return [about, *(table(*entry) for entry in evaluation_tables(story.evaluation.results))]


def _data(corpus: Corpus) -> list[str]:
    concepts = len({corpus.split.group[i] for i in corpus.held_out})
    return [
        paragraph(
            f"{len(corpus.rows)} emoji with names and keywords: {len(corpus.train)} to train on and "
            f"{len(corpus.held_out)} held out, which are whole concepts ({concepts} of them): whatever shares a base "
            "name with a held-out emoji, or looks nearly the same, is held out with it. Flags, clocks, keycaps, "
            "letters and zodiac signs cannot be named unseen and stay in training."
        ),
        paragraph(ATTRIBUTION, "note"),
    ]


def _retrieval(story: Story) -> list[str]:
    results = story.evaluation.results["retrieval"]
    bars = {}
    for title, name in (("held-out concepts", "held_out"), ("known emoji, unseen views", "known_views")):
        part = results[name]
        bars[title] = {"model": part["image to text"], **{key: part[key] for key in ("nearest pixel", "chance")}}
    rows = random.Random(EXAMPLE_SEED).sample(story.corpus.held_out, min(SHOWN, len(story.corpus.held_out)))
    shown = []
    for row in rows:
        name = story.corpus.rows[row].name
        lines = [(name, "")]
        for found in story.evaluation.retrieved[row]:
            lines.append((f"→ {story.corpus.rows[found].name}", "right" if found == row else "wrong"))
        shown.append(card(figures.picture_uri(story.corpus.rgba[row], 64), 64, name, lines))
    return [
        plot(figures.recall_bars(bars), "recall beside the baselines"),
        paragraph("Pictures of emoji that were never trained on, the truth, and the captions that fit best."),
        cards(shown),
    ]


def _captions(story: Story) -> list[str]:
    rng = random.Random(EXAMPLE_SEED)
    evaluation = story.evaluation
    known = rng.sample(range(len(evaluation.known)), min(SHOWN, len(evaluation.known)))
    held = rng.sample(evaluation.held_out, min(SHOWN, len(evaluation.held_out)))
    unseen = evaluation.results["captions"]["held_out"]["words never seen in training"]
    return [
        paragraph("Known emoji in unseen views: the truth, and what the model writes."),
        cards([_caption_card(evaluation.known[i], evaluation.known_views[i]) for i in known]),
        paragraph(f"Held-out concepts. {unseen:.0f} % of the words of their names never occur in training."),
        cards([_caption_card(example, story.corpus.rgba[example.row]) for example in held]),
    ]


def _caption_card(example: Example, picture: Any) -> str:
    kind = "right" if example.truth == example.caption else "wrong"
    lines = [(example.truth, ""), (f"→ {example.caption}", kind)]
    return card(figures.picture_uri(picture, 96), 96, example.truth, lines)


def _questions(story: Story) -> list[str]:
    shown, batch = story.evaluation.grids, story.evaluation.grids.batch
    items = []
    for at, scene in enumerate(batch.scenes[:SHOWN_GRIDS]):
        given = shown.given[PER_SCENE * at : PER_SCENE * (at + 1)]
        lines = []
        for question, answer in zip(scene.questions, given):
            if answer == question.answer:
                lines.append((f"{question.text}? {answer}", "right"))
            else:
                lines.append((f"{question.text}? {answer} (it is {question.answer})", "wrong"))
        items.append(card(figures.picture_uri(batch.pictures[at], 160), 160, "a grid of emoji", lines))
    return [paragraph("Scenes, questions and answers are generated; these scenes were never trained on."), cards(items)]


def _attention(story: Story) -> list[str]:
    """Maps of a few captions and questions; only these examples' weights are ever computed."""
    pieces = story.corpus.tokenizer.pieces
    parts = [
        paragraph(
            "Weights of the last cross-attention layer, mean over its heads: exp(logits - lse), lse from the attention "
            "call itself. Captions look at 4 x 4 cells, questions at 8 x 8."
        )
    ]
    views = story.evaluation.known_views
    for i in random.Random(EXAMPLE_SEED).sample(range(len(views)), min(SHOWN_MAPS, len(views))):
        maps = caption_maps(story.model, views[i], pieces)
        parts.append(plot(figures.word_maps(views[i], maps), f"attention of: {' '.join(maps.words)}"))
    batch = story.evaluation.grids.batch
    for at in range(min(SHOWN_MAPS, len(batch.scenes))):
        mine = slice(PER_SCENE * at, PER_SCENE * at + 1)
        questions = Tokens(batch.questions.ids[mine], batch.questions.lengths[mine])
        for maps in question_maps(story.model, batch.pictures[at], questions, pieces):
            parts.append(plot(figures.word_maps(batch.pictures[at], maps), f"attention of: {' '.join(maps.words)}"))
    return parts


def _comparison(comparison: dict[str, Any] | None) -> list[str]:
    if comparison is None:
        return [paragraph("This run was not compared with the naive path.")]
    return [
        table(*comparison_table(comparison)),
        plot(figures.paired_curves(comparison["fused"]["losses"], comparison["naive"]["losses"]), "fused and naive"),
    ]
