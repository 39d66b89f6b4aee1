"""Pictures and plots as data URIs, for a report in one file."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmkernels.models.attention_maps import WordMaps
from mmkernels.models.training import STAGES

FUSED, NAIVE = "#1b6ca8", "#d1495b"


def picture_uri(picture: Tensor, size: int) -> str:
    """A PNG of an RGB or RGBA picture, (3 or 4, S, S), uint8 or float in [0, 1], scaled up without smoothing."""
    from PIL import Image

    if picture.dtype != torch.uint8:
        picture = (picture.clamp(0, 1) * 255).round().byte()
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    if image.width < size:
        image = image.resize((size, size), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri(buffer.getvalue())


def loss_curves(history: dict[str, list[list[float]]]) -> str:
    """The losses of both stages by step, smoothed."""
    figure, axes = _figure(1, 2, 9, 3.2)
    for ax, (stage, names) in zip(axes, STAGES.items()):
        columns = np.asarray(history[stage], dtype=float).reshape(-1, len(names)).T
        for name, values in zip(names, columns):
            if len(values):
                ax.plot(_smooth(values), label=name, linewidth=1.2)
        ax.set(title=stage, xlabel="step", ylabel="loss")
        ax.legend(fontsize=8, frameon=False)
    return _finish(figure)


def log_plot(title: str, train: dict[str, list[float]], held_out: tuple[list[float], dict[str, list[float]]]) -> bytes:
    """An SVG of a run's losses by step: smoothed those of training, as dots those of the held-out side."""
    from matplotlib import rc_context

    figure, axes = _figure(1, len(train), 4.5 * len(train), 3.2)
    steps, looks = held_out
    for ax, (name, values) in zip(np.atleast_1d(axes), train.items()):
        if values:
            ax.plot(range(1, len(values) + 1), _smooth(values), color=FUSED, linewidth=1.2, label="training")
        if steps:
            ax.plot(steps, looks[name], "o-", color=NAIVE, markersize=3, linewidth=0.8, label="held out")
        ax.set(title=f"{title}: {name}", xlabel="step", ylabel="loss")
        ax.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "mmkernels"}):  # the same run gives the same file
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def paired_curves(fused: list[float], naive: list[float]) -> str:
    """The losses of both paths over each other, and their relative difference."""
    figure, (left, right) = _figure(1, 2, 9, 3)
    steps = range(1, len(fused) + 1)
    left.plot(steps, naive, color=NAIVE, linewidth=4, alpha=0.45, label="naive")
    left.plot(steps, fused, color=FUSED, linewidth=1.2, label="fused")
    left.set(title="loss of the same training run", xlabel="step", ylabel="loss")
    left.legend(frameon=False)
    difference = [abs(a - b) / abs(b) for a, b in zip(fused, naive)]
    right.semilogy(steps, np.maximum(difference, 1e-9), color="#444", linewidth=1.2, label="relative difference")
    right.axhline(1e-3, color=NAIVE, linestyle="--", linewidth=1, label="tolerance")
    right.set(title="relative difference", xlabel="step")
    right.legend(frameon=False)
    return _finish(figure)


def recall_bars(groups: dict[str, dict[str, dict[str, float]]]) -> str:
    """Recall of each method, one panel per group: {group: {method: {"R@1": ...}}}."""
    figure, axes = _figure(1, len(groups), 9, 3)
    for ax, (group, methods) in zip(axes, groups.items()):
        ranks = list(next(iter(methods.values())))
        width = 0.8 / len(methods)
        for i, (method, scores) in enumerate(methods.items()):
            places = np.arange(len(ranks)) + (i - (len(methods) - 1) / 2) * width
            bars = ax.bar(places, [scores[rank] for rank in ranks], width, label=method)
            ax.bar_label(bars, fmt="%.1f", fontsize=7)
        ax.set_xticks(range(len(ranks)), ranks)
        ax.set(title=group, ylabel="%")
        ax.legend(fontsize=8, frameon=False)
    return _finish(figure)


def bars(values: dict[str, float], xlabel: str, ylabel: str) -> str:
    """One bar a name."""
    figure, ax = _figure(1, 1, 5, 2.6)
    ax.bar_label(ax.bar(list(values), list(values.values()), color=FUSED), fmt="%.1f", fontsize=7)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return _finish(figure)


def word_maps(picture: Tensor, maps: WordMaps) -> str:
    """The picture, then one panel per word with what it attends to laid over the picture."""
    count = len(maps.words) + 1
    figure, axes = _figure(1, count, 1.25 * count, 1.6)
    axes = np.atleast_1d(axes)
    image = picture.permute(1, 2, 0).numpy()
    axes[0].imshow(image, interpolation="nearest")
    axes[0].set_title("picture", fontsize=8)
    side = picture.shape[-1]
    for ax, word, weights in zip(axes[1:], maps.words, maps.weights):
        ax.imshow(image, interpolation="nearest")
        ax.imshow(
            weights.numpy(), extent=(-0.5, side - 0.5, side - 0.5, -0.5), cmap="magma", alpha=0.6,
            interpolation="bilinear",
        )  # fmt: skip
        ax.set_title(word, fontsize=8)
    for ax in axes:
        ax.axis("off")
    return _finish(figure)


def _smooth(values: Any) -> Any:
    """Exponential mean over about a fiftieth of the curve."""
    rate = min(1.0, 50 / max(1, len(values)))
    smooth, current = [], values[0]
    for value in values:
        current += rate * (value - current)
        smooth.append(current)
    return smooth


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    # The object interface with its own canvas: no display, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def _finish(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _uri(buffer.getvalue())


def svg_uri(svg: bytes) -> str:
    """An SVG as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
