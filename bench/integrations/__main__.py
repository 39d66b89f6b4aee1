"""Ten models of transformers and diffusers, forward and training step: their own attention beside `mmk.patch`.

    python -m bench.integrations                                   everything, some 10 minutes on one core
    python -m bench.integrations --models CLIP SAM --dtypes float32
    python -m bench.integrations --resume                          what --out does not have yet

Widths, heads and lengths are the published ones (bench/integrations/published.py), layers are one or two of each kind.
Sides share their parameters: "eager" is the library's attention in plain torch, "SDPA" its path over
F.scaled_dot_product_attention where it has one (diffusers has no other), mmkernels the patched model. bf16 is torch's
autocast on all of them. A step is forward, backward of the outputs' mean squares, and SGD. Sides take turns, round by
round, in one process; ratios are taken within a round. The outputs of all sides are compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mmkernels as mmk
from bench import machine, medians, tables
from bench.cli import positive
from bench.integrations.published import MODELS, Model, floats
from bench.measure import interleaved
from mmkernels.files import write_atomically

OURS, EAGER, SDPA = "mmkernels", "eager", "SDPA"
DTYPES = ("float32", "bfloat16")
WORK = ("forward", "training step")
ALLOWED = {"float32": 1e-3, "bfloat16": 5e-2}
"""Norm of the difference of two sides' outputs, as a share of the norm; no difference at all means that weights are so
small that attention does not matter."""
RATE = 1e-6  # so low that weights stay what they are, nearly


def main(arguments: Sequence[str]) -> int:
    """Runs the program; returns its exit status: 0 done, 1 outputs differ, 2 a wrong argument."""
    args = _parser().parse_args(arguments)
    chosen = [model for name, model in MODELS.items() if not args.models or any(part in name for part in args.models)]
    if not chosen:
        print(f"bench.integrations: no model is left; they are: {', '.join(MODELS)}", file=sys.stderr)
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"machine": machine.describe(), "command": list(arguments), "calls": []}
    if args.resume and args.out.exists():
        results["calls"] = json.loads(args.out.read_text())["calls"]
    done = {(call["model"], call["dtype"]) for call in results["calls"]}
    for model in chosen:
        for dtype in args.dtypes:
            if (model.name, dtype) in done:
                continue
            print(f"{model.name} {dtype} ...", file=sys.stderr, flush=True)
            results["calls"] += measure(model, dtype, args.rounds, args.seconds)
            write_atomically(args.out, (json.dumps(results, indent=1) + "\n").encode())
    _print(results["calls"])
    print(f"\nevery figure: {args.out}")
    return 0 if all(call["agree"] for call in results["calls"]) else 1


def sides(model: Model) -> dict[str, Any]:
    """The same parameters under the library's attentions and ours."""
    torch.manual_seed(0)
    plain = model.build("eager").eval()
    diffusers = type(plain).__module__.startswith("diffusers")
    found = {SDPA if diffusers else EAGER: plain}
    if not diffusers and plain._supports_sdpa:
        with torch.device("meta"):  # its parameters and buffers are replaced
            other = model.build("sdpa").eval()
        found[SDPA] = _share(other, plain)
    shared = {id(tensor): tensor for tensor in (*plain.parameters(), *plain.buffers())}
    found[OURS] = copy.deepcopy(plain, shared)
    report = mmk.patch(found[OURS])
    if not report.replaced:
        raise RuntimeError(f"{model.name}: nothing was served\n{report}")
    return found


def _share(model: nn.Module, source: nn.Module) -> nn.Module:
    """The model on another's parameters and buffers."""
    for part, other in zip(model.modules(), source.modules(), strict=True):
        part._parameters.update(other._parameters)
        part._buffers.update(other._buffers)
    return model


def measure(model: Model, dtype: str, most: int = 15, seconds: float = 4.0) -> list[dict[str, Any]]:
    """Every side of a model's forward and of its step.

    Args:
        most, seconds: of the rounds, each.
    """
    found, inputs = sides(model), model.inputs()
    outputs = {}
    for name, side in found.items():
        with torch.no_grad():
            outputs[name] = torch.cat([out.float().flatten() for out in _outputs(side, inputs, dtype)])
    first = next(name for name in found if name != OURS)
    difference = float((outputs[OURS] - outputs[first]).norm() / outputs[first].norm())
    calls = []
    for work, make in zip(WORK, (_forward, _step)):
        begin = time.monotonic()
        timed = {n: make(side, inputs, dtype) for n, side in found.items()}
        try:
            done, samples = interleaved(timed, most, seconds)
        except RuntimeError as error:
            raise RuntimeError(f"{model.name} {dtype} {work}: {error}") from None
        calls.append({
            "model": model.name, "shape": model.shape, "dtype": dtype, "work": work, "rounds": done,
            "counted": model.counted[0],
            "per second": {n: model.counted[1] / medians.spread(entry).median for n, entry in samples.items()},
            "runs": {name: vars(medians.spread(entry)) for name, entry in samples.items()},
            "ratios": {n: vars(medians.ratio(entry, samples[OURS])) for n, entry in samples.items() if n != OURS},
            "difference": difference, "agree": 0 < difference <= ALLOWED[dtype],
            "seconds in all": round(time.monotonic() - begin, 1),
        })  # fmt: skip
    return calls


def _outputs(model: nn.Module, inputs: dict[str, Any], dtype: str) -> list[Tensor]:
    torch.manual_seed(1)  # ViLT draws the patches that it takes
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        return list(floats(model(**inputs)))


def _forward(model: nn.Module, inputs: dict[str, Any], dtype: str) -> Callable[[], Any]:
    def forward() -> list[Tensor]:
        with torch.no_grad():
            return _outputs(model, inputs, dtype)

    return forward


def _step(model: nn.Module, inputs: dict[str, Any], dtype: str) -> Callable[[], Any]:
    optimizer = torch.optim.SGD(model.parameters(), RATE, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.stack([out.float().square().mean() for out in _outputs(model, inputs, dtype)]).sum()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _print(calls: list[dict[str, Any]]) -> None:
    rows = []
    for call in calls:
        rates = [f"{call['per second'][n]:.3g}" if n in call["per second"] else "-" for n in (OURS, EAGER, SDPA)]
        ratios = [medians.Ratio(**call["ratios"][n]) if n in call["ratios"] else None for n in (EAGER, SDPA)]
        same = f"{call['difference']:.0e}" + ("" if call["agree"] else " DIFFERS")
        rows.append([call["model"], call["dtype"], call["work"], call["counted"], *rates,
                     *map(tables.ratio_text, ratios), same])  # fmt: skip
    heads = ("model", "dtype", "work", "per second", OURS, EAGER, SDPA, "x eager", "x SDPA", "difference")
    tables.print_table("Throughput (median); times the library's (interval of the median)", heads, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.integrations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="TEXT", help="only those whose name contains one of these")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, metavar="DTYPE", help=" ".join(DTYPES))
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="at most (15)")
    parser.add_argument("--seconds", type=float, default=4.0, help="for the rounds of a call (4); at least 3 rounds")
    parser.add_argument("--threads", type=positive, metavar="N", help="of torch (its default)")
    parser.add_argument("--resume", action="store_true", help="keep what --out has already")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/integrations.json"), metavar="FILE", help="(runs/integrations.json)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
