"""The same model on the fused kernels and on the naive torch path: losses, time, peak memory, differences.

Each side runs in a process of its own, so that its peak memory is its own:

    python -m mmkernels.models.comparison --backend reference
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmkernels.mask import Mask
from mmkernels.models import presets
from mmkernels.models.backends import Backends
from mmkernels.models.batches import BatchMaker
from mmkernels.models.checkpoint import Checkpoint
from mmkernels.models.corpus import Corpus, load_corpus
from mmkernels.models.loop import configure_torch
from mmkernels.models.presets import Plan
from mmkernels.models.training import Trainer
from mmkernels.ops.attention.api import attention

NAIVE = "reference"
STEPS = 50
PLAN = Plan(2300, 1)  # of which the first STEPS are run: the learning rate is that of a real run's start
TOLERANCE = 1e-3  # of the loss, relative
WARM_UP = 5
# One long problem, as a joint text-and-image layer has it: padded words and patches are two segments of the key axis.
QUERIES, WORDS, REAL_WORDS, PATCHES, HEADS, HEAD_DIM = 2048, 77, 40, 4096, 4, 64


def first_steps(corpus: Corpus, backend: str | None, seed: int, steps: int, preset: str = "demo") -> dict[str, Any]:
    """Trains for some steps: total loss of each, and the median time of a step in seconds."""
    config, recipe = presets.PRESETS[preset]
    trainer = Trainer(corpus, config, recipe, PLAN, seed, backend)
    losses, seconds = [], []
    for _ in range(steps):
        before = trainer.seconds
        losses.append(trainer.train_step().losses["total"])
        seconds.append(trainer.seconds - before)
    return {"losses": losses, "seconds per step": statistics.median(seconds[min(WARM_UP, steps - 1) :])}


def long_attention(backend: str | None, repeats: int = 3) -> dict[str, float]:
    """Forward and backward of one long joint problem: best time in seconds, peak memory in bytes."""
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> torch.Tensor:
        return torch.randn(1, HEADS, length, HEAD_DIM, generator=generator, requires_grad=True)

    query, keys, values = tokens(QUERIES), [tokens(WORDS), tokens(PATCHES)], [tokens(WORDS), tokens(PATCHES)]
    mask = Mask.segments([Mask.key_lengths(torch.tensor([REAL_WORDS])), None])

    def run() -> float:
        started = time.perf_counter()
        attention(query, keys, values, mask=mask, backend=backend).sum().backward()
        return time.perf_counter() - started

    seconds, peak = peak_memory(lambda: min(run() for _ in range(repeats)))
    return {"seconds": seconds, "peak bytes": peak}


def peak_memory(run: Callable[[], Any]) -> tuple[Any, int]:
    """Result of run(), and by how many bytes the process's resident memory rose above its start meanwhile."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
        before = _status("VmRSS")
        result = run()
        return result, max(0, _status("VmHWM") - before)
    except (OSError, StopIteration):  # not Linux: the mark of the whole process, which only rises
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        result = run()
        return result, max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def run_in_process(backend: str | None, seed: int, steps: int, threads: int, preset: str = "demo") -> dict[str, Any]:
    """One side of the comparison, measured in a new process.

    Raises:
        RuntimeError: the process failed; the text holds its last line.
    """
    command = [sys.executable, "-m", "mmkernels.models.comparison", "--seed", str(seed), "--steps", str(steps)]
    command += ["--threads", str(threads), "--preset", preset, *(["--backend", backend] if backend else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise RuntimeError(f"the comparison on backend {backend or 'best available'} failed: {lines[-1]}")
    return json.loads(done.stdout)


def compare(
    seed: int, threads: int, backend: str | None = None, steps: int = STEPS, preset: str = "demo"
) -> dict[str, Any]:
    """Both sides, one after the other, and the largest relative difference of their losses."""
    fused = run_in_process(backend, seed, steps, threads, preset)
    naive = run_in_process(NAIVE, seed, steps, threads, preset)
    worst = largest_relative_difference(fused["losses"], naive["losses"])
    return {
        "steps": steps,
        "fused": fused,
        "naive": naive,
        "largest relative loss difference": worst,
        "within tolerance": worst <= TOLERANCE,
    }


def largest_relative_difference(losses: list[float], reference: list[float]) -> float:
    """max |a - b| / |b|; a number that is not finite, on either side, counts as infinite."""
    pairs = list(zip(losses, reference, strict=True))
    if not all(math.isfinite(a) and math.isfinite(b) for a, b in pairs):
        return math.inf
    return max(abs(a - b) / abs(b) for a, b in pairs)


@torch.no_grad()
def output_differences(saved: Checkpoint, corpus: Corpus, backend: str | None) -> dict[str, float]:
    """Largest absolute difference of a trained model's outputs between a backend and the naive path."""
    ours, naive = saved.build_model(backend).eval(), saved.build_model(NAIVE).eval()
    maker = BatchMaker(corpus, saved.recipe, saved.seed)
    pairs, grids = maker.pretrain(0), maker.vqa(0)

    def outputs(model: Any) -> dict[str, torch.Tensor]:
        images = model.image_tower(pairs.pictures[: len(pairs.captions.ids)])
        return {
            "image embeddings": model.embed_images(pairs.pictures),
            "text embeddings": model.embed_texts(pairs.texts),
            "caption logits": model.captioner(images, pairs.captions),
            "answer logits": model.answerer(grids.pictures, grids.questions),
        }

    a, b = outputs(ours), outputs(naive)
    # Padded places of a caption are computed but mean nothing; both paths give them the same finite values.
    return {name: (a[name] - b[name]).abs().max().item() for name in a}


def main() -> None:
    """One side, as JSON on stdout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--backend")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--preset", choices=list(presets.PRESETS), default="demo")
    args = parser.parse_args()
    Backends.choose(args.backend)  # refuses before the data is loaded
    configure_torch(args.threads)
    corpus = load_corpus()
    training, peak = peak_memory(lambda: first_steps(corpus, args.backend, args.seed, args.steps, args.preset))
    result = {**training, "training peak bytes": peak, "long attention": long_attention(args.backend)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
