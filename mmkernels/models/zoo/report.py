"""One HTML file about a run of the zoo: figures beside their baselines, losses, examples, attention maps."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from mmkernels.files import write_atomically
from mmkernels.models import figures
from mmkernels.models.html_page import card, cards, page, paragraph, plot, section, table
from mmkernels.models.zoo.checkpoint import ZooCheckpoint
from mmkernels.models.zoo.evaluate import SIDES, Scores, as_tables, sides_of
from mmkernels.models.zoo.maps import look
from mmkernels.models.zoo.objectives import OBJECTIVES, Side
from mmkernels.models.zoo.system import System
from mmkernels.models.zoo.task import Task
from mmkernels.models.zoo.window_times import WindowTimes, window_tables

SHOWN, SHOWN_MAPS = 10, 4
EXAMPLE_SEED = 5  # which examples are shown; they are drawn, not chosen


@dataclass(frozen=True)
class Story:
    """What the report is about; `windows` where times against windows were measured."""

    saved: ZooCheckpoint
    system: System
    task: Task
    scores: Scores
    windows: WindowTimes | None = None


def write_report(story: Story, path: Path) -> None:
    """Writes the report, whole or not at all."""
    write_atomically(path, render(story).encode())


def render(story: Story) -> str:
    """The report as HTML: one document, no other file, no script."""
    saved, sides = story.saved, sides_of(story.task)
    return page(
        f"mmkernels zoo: {saved.preset}",
        [
            f"<h1>mmkernels zoo: {saved.preset}</h1>",
            paragraph("Examples are drawn at random, not chosen. Every figure stands beside chance.", "note"),
            section("summary", "Summary", _summary(story)),
            section("training", "Training", [_losses(saved)]),
            section("examples", "Examples", _examples(story, sides)),
            section("attention", "Where it looks", _attention(story, sides[1])),
            section("window", "Local attention", _windows(story.windows)),
            f"<footer>{paragraph(story.task.licence)}</footer>",
        ],
    )


def _summary(story: Story) -> list[str]:
    saved = story.saved
    about = {
        "preset": saved.preset,
        "objectives": ", ".join(f"{name} x {weight:g}" for name, weight in saved.recipe.objectives),
        "parameters": f"{sum(p.numel() for p in story.system.parameters()):,}",
        "steps": f"{saved.step} of {saved.steps}" + (", stopped early" if saved.stopped else ""),
        "seed": str(saved.seed),
        "training time": f"{saved.seconds:.0f} s",
    }
    run = table("The run", ["", ""], [[name, value] for name, value in about.items()])
    return [run, *(table(*entry) for entry in as_tables(story.scores))]


def _losses(saved: ZooCheckpoint) -> str:
    names = ["total", *saved.objectives]
    train = {name: saved.history["train"][:, i].tolist() for i, name in enumerate(names)}
    looks = saved.history["held_out"]
    held_out = {name: looks[:, i + 1].tolist() if len(looks) else [] for i, name in enumerate(names)}
    steps = looks[:, 0].tolist() if len(looks) else []
    return plot(figures.svg_uri(figures.log_plot(saved.preset, train, (steps, held_out))), "losses by step")


def _examples(story: Story, sides: list[Side]) -> list[str]:
    parts = []
    for name in story.saved.objectives:
        for side in sides:
            found = OBJECTIVES[name].examples(story.system, story.task, side, story.saved.recipe)
            if not found:
                continue
            drawn = random.Random(EXAMPLE_SEED).sample(range(len(found)), min(SHOWN, len(found)))
            shown = []
            for at in drawn:
                example, kind = found[at], "right" if found[at].said == found[at].truth else "wrong"
                lines = [(example.truth, ""), (f"→ {example.said}", kind)]
                picture = story.task.media.shown(side.pictures[at])
                shown.append(card(figures.picture_uri(picture, 96), 96, example.truth, lines))
            parts += [paragraph(f"{name}, {SIDES[side.name]}: the truth, and what the model says."), cards(shown)]
    return parts or [paragraph("Nothing to look at: the objectives say nothing of single pictures.")]


def _attention(story: Story, side: Side) -> list[str]:
    parts = []
    for at in random.Random(EXAMPLE_SEED).sample(range(len(side.rows)), min(SHOWN_MAPS, len(side.rows))):
        name = story.task.captions[side.rows[at]][0]
        maps = look(story.system, story.task, side.pictures[at], name)
        if maps is not None and maps.words:
            parts.append(plot(figures.word_maps(side.pictures[at], maps), f"attention of: {' '.join(maps.words)}"))
    if not parts:
        return [paragraph("No layer of this system attends from words or a class token to the cells of a picture.")]
    return [paragraph("Weights of the last such layer, mean over its heads: exp(logits - lse)."), *parts]


def _windows(times: WindowTimes | None) -> list[str]:
    if times is None:
        return [paragraph("Not measured: no tower of this system is a Transformer, or nobody asked.")]
    parts = [paragraph("Every window once a round; ratios are of full attention's time, round by round, medians.")]
    for entry, (name, found) in zip(window_tables(times), times.items()):
        bars = figures.bars({time.name: time.ms for time in found}, "tokens seen on either side", "ms")
        parts += [table(*entry), plot(bars, f"time against window of the {name} tower")]
    return parts
