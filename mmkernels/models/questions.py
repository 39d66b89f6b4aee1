"""Preprocessing: generated questions about 2 x 2 grids of emoji, with their answers.

There is no data set of human questions here: a scene is drawn, then templates ask about it. Four kinds: "where" (what
is left of the dog), "find" (is there a pizza), "count" (how many animals), "exist" (is there a vehicle).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from mmkernels.models.openmoji import Emoji

# Names that the questions may use one by one; they are always trained on.
NAMED = (
    "dog face;pig face;frog;panda;penguin;fish;octopus;honeybee;red apple;banana;grapes;carrot;pizza;hamburger;"
    "automobile;bicycle;airplane;rocket;house;umbrella;key;trumpet;soccer ball;cactus"
).split(";")
CATEGORIES: dict[str, tuple[str, Callable[[Emoji], bool]]] = {  # plural: (singular, membership)
    "animals": ("animal", lambda r: r.subgroup.startswith("animal") or r.subgroup == "cat-face"),
    "foods": ("food", lambda r: r.subgroup.startswith("food")),
    "flags": ("flag", lambda r: r.group == "flags"),
    "vehicles": ("vehicle", lambda r: r.subgroup in ("transport-ground", "transport-air", "transport-water")),
    "faces": ("face", lambda r: r.subgroup.startswith("face-")),
    "people": ("person", lambda r: r.subgroup.startswith("person")),
    "clothes": ("garment", lambda r: r.subgroup == "clothing"),
    "buildings": ("building", lambda r: r.subgroup.startswith("place-building")),
}
DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}  # (down, right)
KINDS = ("where", "count", "exist", "find")
HELD_OUT_KINDS = ("count", "exist")  # an emoji that was never named cannot be asked for by name
NAMED_SHARE = 0.6  # of the scenes show named emoji ("where", "find"), the others categories ("count", "exist")
PER_SCENE = 4
EMPTY = -1
ANSWERS_OF_CATEGORIES = ["yes", "no", "nothing", "0", "1", "2", "3", "4"]


@dataclass(frozen=True)
class Question:
    """What is asked, the right answer, and which of KINDS it is."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Scene:
    """Row numbers of the four cells, row by row (EMPTY: none), and PER_SCENE questions about them."""

    cells: list[int]
    questions: list[Question]


def category(row: Emoji) -> str | None:
    """The one category of CATEGORIES that a row belongs to."""
    return next((name for name, (_, belongs) in CATEGORIES.items() if belongs(row)), None)


def spoken_name(row: Emoji) -> str:
    """How questions and answers call a named emoji."""
    return row.name.replace(" face", "")


def all_answers(rows: list[Emoji]) -> list[str]:
    """The closed set of answers."""
    return ANSWERS_OF_CATEGORIES + [spoken_name(rows[i]) for i in named_rows(rows)]


def named_rows(rows: list[Emoji]) -> list[int]:
    """Row numbers of NAMED, in its order, without names that the installed data does not have."""
    by_name = {row.name: i for i, row in enumerate(rows)}
    return [by_name[name] for name in NAMED if name in by_name]


def vocabulary(rows: list[Emoji]) -> str:
    """Every word that a question can hold."""
    singulars = [singular for singular, _ in CATEGORIES.values()]
    return " ".join(["what is the how many there a", *DIRECTIONS, *CATEGORIES, *singulars, *all_answers(rows)])


class SceneMaker:
    """Draws scenes from the given rows.

    Args:
        rows: all emoji.
        indices: rows that category scenes may show. A category that none of them is in takes `fallback`'s.
        kinds: with neither "where" nor "find", only category scenes are drawn.
    """

    def __init__(
        self, rows: list[Emoji], indices: list[int], kinds: tuple[str, ...] = KINDS, fallback: list[int] | None = None
    ) -> None:
        self.named = named_rows(rows)
        self.names = {i: spoken_name(rows[i]) for i in self.named}
        self.with_named = "where" in kinds
        self.members: dict[str, list[int]] = {}
        for name in CATEGORIES:
            self.members[name] = [i for i in indices if category(rows[i]) == name] or [
                i for i in fallback or [] if category(rows[i]) == name
            ]
        self.others = [i for i in indices if category(rows[i]) is None and rows[i].group in ("objects", "activities")]

    def draw(self, rng: random.Random) -> Scene:
        """A scene that depends on rng only."""
        if self.with_named and rng.random() < NAMED_SHARE:
            return self._named_scene(rng)
        return self._category_scene(rng)

    def _named_scene(self, rng: random.Random) -> Scene:
        shown = rng.choice([3, 4, 4])
        cells = rng.sample(self.named, shown) + [EMPTY] * (4 - shown)
        rng.shuffle(cells)
        present = [i for i in cells if i != EMPTY]
        if rng.random() < 0.5:
            questions = [Question(f"is there a {self.names[rng.choice(present)]}", "yes", "find")]
        else:
            absent = rng.choice([i for i in self.named if i not in present])
            questions = [Question(f"is there a {self.names[absent]}", "no", "find")]

        something, nothing = [], []
        for at, i in enumerate(cells):
            if i == EMPTY:
                continue
            for direction in DIRECTIONS:
                found = neighbour(cells, at, direction)
                text = f"what is {direction} the {self.names[i]}"
                if found == EMPTY:
                    nothing.append(Question(text, "nothing", "where"))
                else:
                    something.append(Question(text, self.names[found], "where"))
        if rng.random() < 0.5:
            questions += rng.sample(something, 3)
        else:
            questions += rng.sample(something, 2) + rng.sample(nothing, 1)
        return Scene(cells, questions)

    def _category_scene(self, rng: random.Random) -> Scene:
        subject = rng.choice(list(CATEGORIES))
        count = rng.randint(0, 4)
        cells = [(rng.choice(self.members[subject]), subject) for _ in range(count)]
        rest = [name for name in CATEGORIES if name != subject] + ["other"]
        while len(cells) < 4:
            name = rng.choice(rest)
            if rng.random() < 0.15:
                cells.append((EMPTY, ""))
            else:
                cells.append((rng.choice(self.others if name == "other" else self.members[name]), name))
        rng.shuffle(cells)
        counts = Counter(name for _, name in cells)
        present = [name for name in CATEGORIES if counts[name]]
        absent = [name for name in CATEGORIES if not counts[name]]

        questions = [Question(f"how many {subject}", str(count), "count")]
        if present:
            name = rng.choice(present)
            questions.append(Question(f"how many {name}", str(counts[name]), "count"))
        while len(questions) < PER_SCENE:
            name = rng.choice(present if present and rng.random() < 0.5 else absent)
            questions.append(Question(f"is there a {CATEGORIES[name][0]}", "yes" if counts[name] else "no", "exist"))
        return Scene([i for i, _ in cells], questions)


def neighbour(cells: list[int], at: int, direction: str) -> int:
    """The row number in the cell beside `at`, EMPTY if there is none or the grid ends."""
    down, right = DIRECTIONS[direction]
    row, column = at // 2 + down, at % 2 + right
    return cells[row * 2 + column] if 0 <= row < 2 and 0 <= column < 2 else EMPTY
