"""The textbook minimal multimodal model, before and after mmkernels: the same numbers, the concatenation never built.

Before: a linear layer per modality, `torch.cat`, a linear layer over both. After: one `mmk.nn.ConcatFusion` with the
same parameters. Both learn in which of Unicode's groups ("animals-nature", "food-drink", ...) an emoji is filed, from
the pixels of its picture and the words of its name. Both start from the same weights and see the same batches, so the
two loss curves must be one curve.

    python examples/seed_model.py [--steps 300] [--backend reference]

Needs `pip install "mmkernels[demo]"`: pictures are OpenMoji's (https://openmoji.org, CC BY-SA 4.0).
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmkernels as mmk
from mmkernels.models.captions import words
from mmkernels.models.corpus import Corpus, load_corpus

PICTURE_SIZE = 16


class Before(nn.Module):
    """What every introduction shows."""

    def __init__(self, pixels: int, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.image = nn.Linear(pixels, width)
        self.text = nn.Linear(vocabulary, width)
        self.fusion = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.fusion(torch.cat([self.image(image), self.text(text)], -1))


class After(nn.Module):
    """The same on mmkernels."""

    def __init__(self, pixels: int, vocabulary: int, width: int, classes: int, backend: str | None) -> None:
        super().__init__()
        self.fusion = mmk.nn.ConcatFusion([pixels, vocabulary], classes, project=width, backend=backend)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.fusion([image, text])

    def load_before(self, model: Before) -> None:
        """Take over the weights of the textbook model."""
        names = {"fusion.projections.0": "image", "fusion.projections.1": "text", "fusion": "fusion"}
        state = model.state_dict()
        self.load_state_dict(
            {f"{new}.{kind}": state[f"{old}.{kind}"] for new, old in names.items() for kind in ("weight", "bias")}
        )


def prepare(corpus: Corpus) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Pixels (N, 3 * 16 * 16), bag of words (N, vocabulary), group (N,) of every emoji, and the groups' names."""
    pictures = F.interpolate(corpus.over_white(list(range(len(corpus.rows)))), (PICTURE_SIZE,) * 2, mode="area")
    counts = Counter(word for i in corpus.train for word in words(corpus.rows[i].name))
    column = {word: j for j, word in enumerate(sorted(word for word, count in counts.items() if count > 1))}
    bags = torch.zeros(len(corpus.rows), len(column))
    for i, row in enumerate(corpus.rows):
        for word in words(row.name):
            if word in column:
                bags[i, column[word]] = 1
    groups = sorted({row.group for row in corpus.rows})
    labels = torch.tensor([groups.index(row.group) for row in corpus.rows])
    return 1 - pictures.flatten(1), bags, labels, groups


def train(
    model: nn.Module, data: tuple[Tensor, Tensor, Tensor], rows: list[int], steps: int, batch: int, seed: int
) -> list[float]:
    """The loss at every step."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pool = torch.tensor(rows)
    losses = []
    for _ in range(steps):
        chosen = pool[torch.randint(len(pool), (batch,), generator=generator)]
        image, text, label = (tensor[chosen] for tensor in data)
        loss = F.cross_entropy(model(image, text), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def curve(losses: list[float], width: int = 60) -> str:
    """The losses as a line of text, one character for an equal share of the steps."""
    size = max(1, len(losses) // width)
    means = [sum(losses[i : i + size]) / len(losses[i : i + size]) for i in range(0, len(losses), size)]
    bars = "▁▂▃▄▅▆▇█"
    low, high = min(means), max(means)
    return "".join(bars[round((x - low) / (high - low or 1) * (len(bars) - 1))] for x in means)


def main(arguments: list[str] | None = None) -> float:
    """Train both and print; returns the largest difference between the two loss curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=None, help="use only about this many emoji")
    parser.add_argument("--backend", default=None, help="of mmkernels; the first that can by default")
    options = parser.parse_args(arguments)

    corpus = load_corpus(options.limit)
    image, text, label, groups = prepare(corpus)
    print(f"{len(corpus.train)} emoji to learn from, {len(corpus.held_out)} of other concepts to ask about")
    print(f"{image.shape[1]} pixel values and {text.shape[1]} words -> {len(groups)} groups\n")

    torch.manual_seed(options.seed)
    before = Before(image.shape[1], text.shape[1], options.width, len(groups))
    after = After(image.shape[1], text.shape[1], options.width, len(groups), options.backend)
    after.load_before(before)
    curves = []
    for name, model in (("torch.cat + nn.Linear", before), ("mmk.nn.ConcatFusion", after)):
        losses = train(model, (image, text, label), corpus.train, options.steps, options.batch, options.seed)
        with torch.no_grad():
            answers = model(image[corpus.held_out], text[corpus.held_out]).argmax(1)
        right = (answers == label[corpus.held_out]).double().mean().item()
        print(f"{name:<22} {curve(losses)}  {losses[0]:.4f} -> {losses[-1]:.4f}")
        print(f"{'':<22} {right:.1%} of the held-out emoji filed correctly")
        curves.append(losses)
    majority = Counter(label[corpus.train].tolist()).most_common(1)[0][0]
    share = (label[corpus.held_out] == majority).double().mean().item()
    print(f"{'always the same group':<22} {share:.1%}")
    difference = max(abs(a - b) for a, b in zip(*curves))
    print(f"\nlargest difference between the two loss curves: {difference:.2e}")
    return difference


if __name__ == "__main__":
    main()
