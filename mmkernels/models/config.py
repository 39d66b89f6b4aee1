"""The sizes of every part of the zoo: frozen, and checked when they are made; `serial` turns them into JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmkernels.models.efficient_net import EfficientNetConfig

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu")
NORMS = ("layer", "rms")
TEXT_POOLS = ("mean", "first", "last")
IMAGE_POOLS = ("mean", "class")
POSITIONS = ("learned", "relative")
LOOKS = ("gated", "cross")
MIDDLE = (0.5, 0.5, 0.5)  # of RGB in [0, 1]: as mean and spread it takes them to [-1, 1]


def one_of(name: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raises ValueError unless the value is a known one."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")


def at_least(name: str, value: Any, least: int) -> None:
    """Raises TypeError or ValueError unless the value is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def share(name: str, value: float) -> None:
    """Raises ValueError unless the value is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of Transformer layers.

    `mlp` is the width of the hidden layer; `gated` multiplies it by a second product (GEGLU). `scale` multiplies the
    logits, None being 1 / sqrt(head_dim). `window` is the number of tokens that a token sees on either side of it.
    """

    width: int = 128
    heads: int = 4
    layers: int = 2
    mlp: int = 384
    head_dim: int | None = None
    activation: str = "gelu"
    gated: bool = False
    norm: str = "layer"
    norm_eps: float = 1e-5
    norm_first: bool = True
    bias: bool = True
    scale: float | None = None
    window: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp"):
            at_least(name, getattr(self, name), 1)
        at_least("layers", self.layers, 0)
        one_of("activation", self.activation, ACTIVATIONS)
        one_of("norm", self.norm, NORMS)
        share("dropout", self.dropout)
        if self.window is not None:
            at_least("window", self.window, 1)
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")


@dataclass(frozen=True)
class CnnConfig:
    """A residual CNN that reads its last feature map as tokens, 8 x 8 pixels each. `stem`: channels before `width`."""

    width: int = 128
    stem: tuple[int, int] = (32, 64)
    side: int = 32
    pool: str = "mean"

    def __post_init__(self) -> None:
        at_least("side", self.side, 8)
        if self.side % self.patch:
            raise ValueError(f"side must be a multiple of {self.patch}, got {self.side}")
        one_of("pool", self.pool, ("mean",))

    @property
    def patch(self) -> int:
        """Pixels of a token's side."""
        return 8


@dataclass(frozen=True)
class VitConfig:
    """A vision Transformer.

    Args:
        pool: "class" adds a class token before the patches.
        embedding_norm: of patches and positions, before the first block (CLIP).
        pooler: a linear layer and tanh on the pooled vector.
        mean, spread: of the channels of RGB in [0, 1]; pictures are brought to zero mean and unit spread.
    """

    blocks: TransformerConfig = TransformerConfig()
    side: int = 32
    patch: int = 8
    pool: str = "mean"
    patch_bias: bool = True
    embedding_norm: bool = False
    pooler: bool = False
    mean: tuple[float, float, float] = MIDDLE
    spread: tuple[float, float, float] = MIDDLE

    def __post_init__(self) -> None:
        at_least("patch", self.patch, 1)
        at_least("side", self.side, self.patch)
        one_of("pool", self.pool, IMAGE_POOLS)
        if self.side % self.patch:
            raise ValueError(f"side must be a multiple of patch, got {self.side} and {self.patch}")
        if self.blocks.window is not None and self.pool == "class":
            raise ValueError('window needs pool="mean": a class token sees all patches')

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.blocks.width


@dataclass(frozen=True)
class TextConfig:
    """A text Transformer.

    `length`: number of learned positions; relative positions have `buckets` up to `max_distance` (T5). `pool` says
    which vector stands for a text: the mean of its words, its first or its last token; `pooler` adds a linear layer and
    tanh to it. `token_types` and `embedding_norm` are BERT's. `final_norm` follows the last layer. The embedding of
    word number `pad` does not learn; None: all do.
    """

    blocks: TransformerConfig = TransformerConfig()
    length: int = 40
    position: str = "learned"
    buckets: int = 32
    max_distance: int = 128
    causal: bool = False
    pool: str = "mean"
    token_types: int = 0
    embedding_norm: bool = False
    final_norm: bool = True
    pooler: bool = False
    pad: int | None = 0

    def __post_init__(self) -> None:
        at_least("length", self.length, 4)
        one_of("position", self.position, POSITIONS)
        one_of("pool", self.pool, TEXT_POOLS)
        if self.causal and self.pool == "first":
            raise ValueError('pool must be "mean" or "last" where causal, got "first": it sees nothing but itself')

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.blocks.width


@dataclass(frozen=True)
class SingleStreamConfig:
    """One Transformer over [words | tags | picture tokens], which stay segments (UNITER, Oscar)."""

    blocks: TransformerConfig = TransformerConfig()
    tags: bool = False


@dataclass(frozen=True)
class CoAttentionConfig:
    """Two streams whose layers look at each other, then at themselves (ViLBERT).

    `heads` and `head_dim` are those of the attention across; `layers` is the number of such pairs of layers, each
    followed by one layer of `text` and one of `image`, whose own `layers` are not read.
    """

    text: TransformerConfig = TransformerConfig()
    image: TransformerConfig = TransformerConfig()
    layers: int = 2
    heads: int = 4
    head_dim: int | None = None

    def __post_init__(self) -> None:
        at_least("layers", self.layers, 1)
        at_least("heads", self.heads, 1)


@dataclass(frozen=True)
class DecoderConfig:
    """A causal text Transformer that looks at an encoder's tokens.

    Args:
        look: "cross" attention in every layer (T5), or "gated" cross-attention before every `every`-th (Flamingo).
        gate: what gates start from, before tanh; 0 keeps a pretrained text model as it is, from scratch 1 is better.
        latents: tokens that a resampler makes of each picture, in `resampler_layers` layers; 0: the tower's own.
        fuse: concat-fusion of every word with the vector of its picture.
        tied: the next word is read off the embeddings, times `width ** -0.5` where `tied_scale`.
    """

    text: TextConfig = TextConfig(causal=True)
    look: str = "gated"
    every: int = 1
    gate: float = 1.0
    latents: int = 0
    resampler_layers: int = 1
    fuse: bool = False
    tied: bool = False
    tied_scale: bool = False

    def __post_init__(self) -> None:
        one_of("look", self.look, LOOKS)
        at_least("every", self.every, 1)
        at_least("latents", self.latents, 0)
        if not self.text.causal:
            raise ValueError("text must be causal in a decoder")


@dataclass(frozen=True)
class ContrastiveConfig:
    """The space where pictures and texts are compared.

    Args:
        scale, largest_scale: what multiplies the dot products at the start, and at most; None: as much as is learnt.
        temperature: learn the number that divides the dot products, not the logarithm of the one that multiplies them.
        project_image: False where the pictures' vectors are in that space already (ALIGN).
    """

    width: int = 128
    bias: bool = True
    scale: float = 14.0
    largest_scale: float | None = 50.0
    temperature: bool = False
    project_image: bool = True


@dataclass(frozen=True)
class SystemConfig:
    """A system of the zoo: towers, what happens between them, and the sizes of its heads.

    `vocabulary` and `classes` are a published model's; None takes those of the data. `shared_words`: the decoder reads
    its words with the text tower's embedding (T5).
    """

    image: CnnConfig | VitConfig | EfficientNetConfig | None = None
    text: TextConfig | None = None
    interaction: SingleStreamConfig | CoAttentionConfig | None = None
    decoder: DecoderConfig | None = None
    contrastive: ContrastiveConfig = ContrastiveConfig()
    vocabulary: int | None = None
    classes: int | None = None
    shared_words: bool = False

    @property
    def tagged(self) -> bool:
        """Whether the tags of a picture have a segment of their own (Oscar)."""
        return isinstance(self.interaction, SingleStreamConfig) and self.interaction.tags

    def __post_init__(self) -> None:
        if self.image is None and self.text is None:
            raise ValueError("a system needs an image tower, a text tower, or both")
        if self.interaction is not None and (self.image is None or self.text is None):
            raise ValueError("interaction needs an image tower and a text tower")
        if self.shared_words and (self.text is None or self.decoder is None):
            raise ValueError("shared_words needs a text tower and a decoder")


def with_dropout(value: Any, dropout: float) -> Any:
    """A configuration with this dropout in every Transformer of it."""
    if isinstance(value, TransformerConfig):
        return replace(value, dropout=dropout)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{f.name: with_dropout(getattr(value, f.name), dropout) for f in fields(value)})


def with_window(config: SystemConfig, window: int) -> SystemConfig:
    """The same system with local attention in its towers (a class token would have to see all: it goes)."""

    def local(blocks: TransformerConfig) -> TransformerConfig:
        return replace(blocks, window=window)

    image, text = config.image, config.text
    if isinstance(image, VitConfig):
        image = replace(image, pool="mean", blocks=local(image.blocks))
    if text is not None:
        text = replace(text, blocks=local(text.blocks))
    if (image, text) == (config.image, config.text):
        raise ValueError("window needs a Transformer tower, and this system has none")
    return replace(config, image=image, text=text)
