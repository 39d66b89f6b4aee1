"""A training step of every preset at its published head shapes, naive torch beside the fused kernels.

    python -m bench.zoo                                       every preset, fp32 and bf16: about 6 minutes on 2 cores
    python -m bench.zoo --presets clip bert --dtypes float32

Widths, heads, patches and lengths are the published ones, layers are fewer (two; one where they are 2,048 wide) and
batches short; the vocabulary is 8,192 words, so that no embedding hides what is compared. The naive side is the same
modules on the ops as a textbook writes them in torch; bf16 is torch's autocast on both. A step is forward, backward,
clipping and a fused AdamW on a batch that stays the same. Sides take turns, round by round, in one process; ratios are
taken within a round. The first losses of both sides are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import machine, medians, tables
from bench.cli import positive
from bench.measure import interleaved
from bench.zoo.plain import Plain
from bench.zoo.systems import SIZES, Size, noise_task, setup
from mmkernels.files import write_atomically
from mmkernels.models.loop import adamw
from mmkernels.models.recipe import TrainConfig
from mmkernels.models.zoo.batches import Batch, Batches
from mmkernels.models.zoo.objectives import choose
from mmkernels.models.zoo.system import Sizes, System

OURS, NAIVE = "mmkernels", "naive"
DTYPES = ("float32", "bfloat16")
ALLOWED = {"float32": 1e-3, "bfloat16": 3e-2}
"""Relative difference of the two sides' first losses."""
RATE = 1e-5  # so low that weights stay what they are, nearly


def main(arguments: Sequence[str]) -> int:
    """Runs the program; returns its exit status: 0 done, 1 losses differ, 2 a wrong argument."""
    args = _parser().parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"machine": machine.describe(), "command": list(arguments), "steps": []}
    for name in args.presets:
        for dtype in args.dtypes:
            print(f"{name} {dtype} ...", file=sys.stderr, flush=True)
            begin = time.monotonic()
            results["steps"].append(measure(SIZES[name], dtype, args.layers, args.batch, args.rounds, args.seconds))
            results["steps"][-1]["seconds in all"] = round(time.monotonic() - begin, 1)
            write_atomically(args.out, (json.dumps(results, indent=1) + "\n").encode())
    _print(results["steps"])
    print(f"\nevery figure: {args.out}")
    return 0 if all(step["agree"] for step in results["steps"]) else 1


def measure(
    size: Size, dtype: str, layers: int | None = None, batch: int | None = None, most: int = 15, seconds: float = 10.0
) -> dict[str, Any]:
    """Both sides of one step.

    Args:
        layers, batch: in place of the size's.
        most, seconds: of the rounds.
    """
    config, recipe = setup(size, layers, batch)
    task, names = noise_task(config, size.tokens), [name for name, _ in recipe.objectives]
    torch.manual_seed(0)
    fused = System(config, Sizes.of(config, task), names).train()
    data = Batches(task, config, recipe, choose(names, config), seed=0).batch(0)
    plain = Plain()
    steps = {
        OURS: _step(fused, data, recipe, dtype, contextlib.nullcontext),
        NAIVE: _step(copy.deepcopy(fused), data, recipe, dtype, plain.in_place),
    }
    losses = {name: step() for name, step in steps.items()}
    try:
        done, samples = interleaved(steps, most, seconds)
    except RuntimeError as error:
        raise RuntimeError(f"{size.preset} {dtype}: {error}") from None
    difference = abs(losses[OURS] - losses[NAIVE]) / abs(losses[NAIVE])
    return {
        "preset": size.preset,
        "dtype": dtype,
        "layers": layers or size.layers,
        "batch": recipe.batch,
        "tokens": size.tokens,
        "parameters": sum(p.numel() for p in fused.parameters()),
        "rounds": done,
        "runs": {name: vars(medians.spread(entry)) for name, entry in samples.items()},
        "naive / mmkernels": vars(medians.ratio(samples[NAIVE], samples[OURS])),
        "loss difference": difference,
        "agree": difference <= ALLOWED[dtype],
    }


def _step(system: System, data: Batch, recipe: TrainConfig, dtype: str, ops: Callable[[], Any]) -> Callable[[], float]:
    parameters = list(system.parameters())
    optimizer = adamw(parameters, RATE, recipe.weight_decay, recipe.betas)

    def step() -> float:
        optimizer.zero_grad()
        with ops():
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                total = system.losses(data, recipe)["total"]
            total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        return float(total.detach())

    return step


def _print(steps: list[dict[str, Any]]) -> None:
    rows = []
    for step in steps:
        ours, naive = (step["runs"][name] for name in (OURS, NAIVE))
        cells = [f"{x['median'] * 1e3:.0f} ({x['low'] * 1e3:.0f}-{x['high'] * 1e3:.0f})" for x in (ours, naive)]
        ratio = medians.Ratio(**step["naive / mmkernels"])
        same = f"{step['loss difference']:.0e}" + ("" if step["agree"] else " DIFFERS")
        shape = f"{step['layers']} x, batch {step['batch']}"
        rows.append([step["preset"], shape, step["dtype"], *cells, tables.ratio_text(ratio), same])
    heads = ("preset", "layers", "dtype", "mmkernels ms", "naive ms", "naive / mmkernels", "loss difference")
    tables.print_table("A training step: median (quartiles); ratio (interval of the median)", heads, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.zoo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(SIZES)
    parser.add_argument("--presets", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, metavar="DTYPE", help=", ".join(DTYPES))
    parser.add_argument("--layers", type=positive, metavar="N", help="of every part (2, or 1)")
    parser.add_argument("--batch", type=positive, metavar="N", help="rows of a step (4 or 8)")
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="at most (15)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the rounds of a step (10); at least 3 rounds")
    parser.add_argument("--threads", type=positive, metavar="N", help="of torch (its default)")
    parser.add_argument("--out", type=Path, default=Path("runs/zoo.json"), metavar="FILE", help="(runs/zoo.json)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
