"""A system of the zoo: the parts of its configuration, and a head for each objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmkernels.models.backends import Backends
from mmkernels.models.config import CoAttentionConfig, SingleStreamConfig, SystemConfig
from mmkernels.models.interaction import CoAttention, SingleStream
from mmkernels.models.media import MediaTower, media_tower
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.tokenizer import BOS, EOS, Tokens
from mmkernels.models.towers import TextTower, mean_over_words
from mmkernels.models.zoo.batches import Batch
from mmkernels.models.zoo.decoder import Context, Decoder
from mmkernels.models.zoo.objectives import choose, learnt
from mmkernels.models.zoo.objectives.base import Seen
from mmkernels.models.zoo.task import Task


@dataclass(frozen=True)
class Sizes:
    """How many words, answers and classes a system tells apart."""

    vocabulary: int
    answers: int
    classes: int

    @classmethod
    def of(cls, config: SystemConfig, task: Task) -> Sizes:
        """A published model's own, or the task's.

        Raises:
            ValueError: the task has more than the configuration has room for.
        """
        found = {}
        for name, needed in (("vocabulary", task.vocabulary), ("classes", len(task.classes))):
            room = getattr(config, name)
            if room is not None and room < needed:
                raise ValueError(f"{name} is {room} in the configuration, but the data has {needed}")
            found[name] = needed if room is None else room
        return cls(answers=len(task.corpus.answers) if task.corpus else 0, **found)


class Joined(NamedTuple):
    """Texts and pictures that may have seen each other: words (B * k, L, width), picture tokens (B * k, N, width)."""

    words: Tensor
    lengths: Tensor
    pictures: Tensor
    tags: Tensor | None = None


class System(nn.Module):
    """Towers, interaction, decoder and heads, as configured.

    Args:
        objectives: names; each adds its head.
        backend: name of a backend for the ops of mmkernels, or None; see `Backends.choose`.

    Raises:
        ValueError: an objective needs a part that the configuration lacks.
    """

    def __init__(
        self, config: SystemConfig, sizes: Sizes, objectives: Sequence[str], backend: str | None = None
    ) -> None:
        super().__init__()
        chosen = choose(objectives, config)
        self.config, self.sizes, self.backends = config, sizes, Backends.choose(backend)
        attention = self.backends.attention
        if config.image is not None:
            self.image_tower: MediaTower = media_tower(config.image, attention)
        if config.text is not None:
            self.text_tower = TextTower(config.text, sizes.vocabulary, attention)
        self.interaction = self._interaction()
        self.decoder: Decoder | None = None
        if config.decoder is not None and any(objective.writes for objective in chosen):
            source = config.text if config.image is None else config.image
            assert source is not None, "a system has a tower"
            self.decoder = Decoder(config.decoder, source.width, sizes.vocabulary, config.shared_words, self.backends)
        heads = {objective.name: objective.head(self) for objective in chosen}
        self.heads = nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def _interaction(self) -> SingleStream | CoAttention | None:
        config = self.config
        if config.interaction is None:
            return None
        assert config.text is not None and config.image is not None, "SystemConfig has checked this"
        words, pictures = config.text.width, config.image.width
        if isinstance(config.interaction, CoAttentionConfig):
            return CoAttention(config.interaction, [words, pictures], self.backends.attention)
        widths = [words, words, pictures] if config.interaction.tags else [words, pictures]
        return SingleStream(config.interaction, widths, self.backends.attention)

    @property
    def widths(self) -> tuple[int, int]:
        """Features of words and of picture tokens after the interaction; 0 for a tower that is not there."""
        config = self.config
        if isinstance(config.interaction, SingleStreamConfig):
            return (config.interaction.blocks.width,) * 2
        if isinstance(config.interaction, CoAttentionConfig):
            return config.interaction.text.width, config.interaction.image.width
        return (0 if config.text is None else config.text.width), (0 if config.image is None else config.image.width)

    # ---- towers ----

    def see(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S), or clips or sounds in their place, -> tokens (B, N, width), the class token included."""
        return self.image_tower(pictures)

    def read(self, texts: Tokens) -> Tensor:
        """(B, L) -> (B, L, width)."""
        return self.text_tower(texts)

    def picture_vector(self, tokens: Tensor) -> Tensor:
        """One vector per picture."""
        return self.image_tower.pool(tokens)

    def text_vector(self, words: Tensor, lengths: Tensor) -> Tensor:
        """One vector per text."""
        return self.text_tower.pool(words, lengths)

    # ---- both ----

    def join(self, texts: Tokens, pictures: Tensor, tags: Tokens | None = None, words: Tensor | None = None) -> Joined:
        """Texts, and the tokens of their pictures, through the interaction, if there is one.

        Args:
            texts: k texts about each picture, following each other.
            pictures: tokens (B, N, width).
            tags: of each picture, where the configuration has a segment for them.
            words: the tower's tokens of the texts, where they are there already.
        """
        words = self.read(texts) if words is None else words
        each = len(words) // len(pictures)
        if self.interaction is None:
            return Joined(words, texts.lengths, pictures)
        pictures = pictures.repeat_interleave(each, 0) if each > 1 else pictures
        segments, lengths = [words, pictures], [texts.lengths, None]
        if self.config.tagged:
            tags = _no_tags(texts) if tags is None else tags
            segments.insert(1, self.read(tags))
            lengths.insert(1, tags.lengths)
        seen = self.interaction(segments, lengths)
        return Joined(seen[0], texts.lengths, seen[-1], seen[1] if len(seen) == 3 else None)

    def joint_vectors(self, joined: Joined) -> tuple[Tensor, Tensor]:
        """One vector per text (B * k, width), and per picture: (B or B * k, width), to be fused by concatenation."""
        if self.interaction is None:
            return self.text_vector(joined.words, joined.lengths), self.picture_vector(joined.pictures)
        return mean_over_words(joined.words, joined.lengths), self.picture_vector(joined.pictures)

    def write(self, tokens: Tokens, context: Context) -> Tensor:
        """Logits of the next words, (B, L, vocabulary)."""
        assert self.decoder is not None, "an objective that writes asks for a decoder"
        return self.decoder(tokens, context, self.text_tower.embedding if self.config.shared_words else None)

    # ---- learning ----

    def losses(self, batch: Batch, recipe: TrainConfig) -> dict[str, Tensor]:
        """The loss of each objective by its name, "total" being their weighted sum."""
        seen = Seen(self, batch.pairs, recipe)
        losses = {name: learnt(name, recipe).loss(self, seen, batch.drawn[name]) for name, _ in recipe.objectives}
        total = sum(weight * losses[name] for name, weight in recipe.objectives)
        return {"total": torch.as_tensor(total), **losses}


def _no_tags(texts: Tokens) -> Tokens:
    """Texts that say nothing: <bos> and <eos> alone."""
    ends = texts.ids.new_tensor([[BOS, EOS]])
    return Tokens(ends.expand(len(texts.ids), -1), torch.full_like(texts.lengths, 2))
