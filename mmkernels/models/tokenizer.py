"""Preprocessing: words to numbers and back, on the library `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PAD, BOS, EOS, UNK = range(4)
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


class Tokens(NamedTuple):
    """A padded batch: ids (B, L), and how many of each row are real, (B,), never 0."""

    ids: Tensor
    lengths: Tensor


class WordTokenizer:
    """Word-level tokens of a closed vocabulary; every text is framed by <bos> and <eos>."""

    def __init__(self, state: str) -> None:
        """Restores a tokenizer from what `state` returned."""
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(state)

    @classmethod
    def train(cls, texts: Iterable[str], any_letters: bool = False) -> WordTokenizer:
        """The vocabulary is every word of the texts, in alphabetical order.

        Args:
            any_letters: words are made of the letters and digits of any script, not of a to z and 0 to 9 alone.
        """
        from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

        steps = [normalizers.NFC()] if any_letters else []
        normalizer = normalizers.Sequence([*steps, normalizers.Lowercase(), normalizers.Replace("_", " ")])
        between = r"[^\p{L}\p{M}\p{N}']+" if any_letters else r"[^a-z0-9']+"
        pre_tokenizer = pre_tokenizers.Split(Regex(between), behavior="removed")
        known = {word for text in texts for word in _words(text, normalizer, pre_tokenizer)}
        vocabulary = SPECIAL + sorted(known)
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=SPECIAL[UNK]))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[BOS]} $A {SPECIAL[EOS]}", special_tokens=[(SPECIAL[BOS], BOS), (SPECIAL[EOS], EOS)]
        )
        return cls(tokenizer.to_str())

    @property
    def state(self) -> str:
        """Everything, as JSON."""
        return self._tokenizer.to_str()

    @property
    def size(self) -> int:
        """Number of tokens, the special ones included."""
        return self._tokenizer.get_vocab_size()

    def words(self, text: str) -> list[str]:
        """The words of a text, known or not."""
        return _words(text, self._tokenizer.normalizer, self._tokenizer.pre_tokenizer)

    def __contains__(self, word: str) -> bool:
        return self._tokenizer.token_to_id(word) is not None

    def encode(self, texts: Sequence[str], max_length: int) -> Tokens:
        """Tokens of a batch, cut to max_length (<bos> and <eos> stay) and padded to the longest."""
        self._tokenizer.enable_truncation(max_length)
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        lengths = [len(row) for row in rows]
        ids = torch.full((len(rows), max(lengths, default=0)), PAD)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return Tokens(ids, torch.tensor(lengths))

    def decode(self, ids: Iterable[int]) -> str:
        """The words up to the first <eos>, without special tokens."""
        found: list[str] = []
        for i in ids:
            if i == EOS:
                break
            if i > UNK:
                found.append(str(self._tokenizer.id_to_token(i)))
        return " ".join(found)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The token of each id, special ones included."""
        return [str(self._tokenizer.id_to_token(i)) for i in ids]


def _words(text: str, normalizer: Any, pre_tokenizer: Any) -> list[str]:
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]
