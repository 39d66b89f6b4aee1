"""First speed figures: mmkernels on the CPU beside torch's SDPA and the naive path, in interleaved rounds.

    python -m bench.attention [--rounds 7] [--dtypes float32 bfloat16] [--only NAME ...] [--json FILE]

Each round runs every provider once, in turn, and gives one ratio; the table shows the medians and the middle half of
the ratios. Times are of the machine as it is: judge by the ratios. torch's path is the best one for the case:
`scaled_dot_product_attention` with the arguments that reach its fast path where it has one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mmkernels as mmk
from bench.inputs import Inputs
from bench.problems import named

CASES: tuple[tuple[str, str], ...] = (
    ("text-to-image 77x1024", ""),
    ("square 1024", ""),
    ("image-to-text 4096x77", ""),
    ("square 2048 D128", ""),
    ("text-to-patches 128x577", ""),
    ("Q-Former 32x257", ""),
    ("mllama 32x1601", ""),
    ("causal 1024", ""),
    ("padding 128", ""),
    ("ViT 197 dropout", ""),
    ("learned bias 196", "bias"),
    ("text-to-image 77x1024", "dropout"),
    ("square 1024", "dropout"),
)
"""Problem, and what is added to it: dropout 0.1, or a gradient for its bias."""


def _torch_path(inputs: Inputs, dropout_p: float) -> Callable[[], Tensor]:
    """SDPA on the same problem: a mask as bool, a bias as a float mask."""
    query, key, value = inputs.queries[0], inputs.keys[0], inputs.values[0]
    causal = inputs.mask is not None and inputs.mask.kind == "causal"
    mask: Tensor | None = None
    if isinstance(inputs.bias, Tensor):
        mask = inputs.bias.to(inputs.dtype)
    elif inputs.mask is not None and not causal:
        mask = inputs.mask.to_dense(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    return lambda: F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout_p,
        is_causal=causal,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _naive_path(inputs: Inputs, dropout_p: float) -> Callable[[], Tensor]:
    """softmax(q k^T) v as a textbook writes it."""
    query, key, value = inputs.queries[0], inputs.keys[0], inputs.values[0]
    group = query.shape[1] // key.shape[1]
    mask = None
    if inputs.mask is not None:
        mask = inputs.mask.to_dense(query.shape[0], query.shape[1], query.shape[2], key.shape[2])

    def run() -> Tensor:
        k, v = (x.repeat_interleave(group, 1) if group > 1 else x for x in (key, value))
        logits = query @ k.transpose(-1, -2) * query.shape[-1] ** -0.5
        if isinstance(inputs.bias, Tensor):
            logits = logits + inputs.bias.to(logits.dtype)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        return F.dropout(logits.softmax(-1), dropout_p, dropout_p > 0) @ v

    return run


def _with_backward(run: Callable[[], Tensor], leaves: list[Tensor], grad_out: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(run(), leaves, grad_out)


def measure(name: str, extra: str, dtype: torch.dtype, backward: bool, rounds: int) -> dict[str, Any]:
    """Medians of one case, and the ratios to each peer round by round."""
    problem = named(name)
    inputs = problem.make(dtype)
    dropout_p = 0.1 if extra == "dropout" else problem.dropout_p
    leaves = {key: leaf.detach().requires_grad_(backward) for key, leaf in inputs.leaves().items()}
    inputs = inputs.replaced(leaves)
    options = {"dropout_p": dropout_p} if dropout_p else {}

    def ours() -> Tensor:
        return mmk.attention(
            inputs.queries[0], inputs.keys[0], inputs.values[0], mask=inputs.mask, bias=inputs.bias, **options
        )

    runs: dict[str, Callable[[], object]] = {
        "mmkernels": ours,
        "sdpa": _torch_path(inputs, dropout_p),
        "naive": _naive_path(inputs, dropout_p),
    }
    out = ours().detach()
    if backward:
        grad_out = torch.randn_like(out)
        runs = {peer: _with_backward(run, list(leaves.values()), grad_out) for peer, run in runs.items()}  # type: ignore[arg-type]
    times: dict[str, list[float]] = {peer: [] for peer in runs}
    for round_index in range(rounds + 1):
        for peer, run in runs.items():
            start = time.perf_counter()
            run()
            if round_index:  # the first warms up
                times[peer].append(time.perf_counter() - start)
    batch, heads, q_len, dim = inputs.queries[0].shape
    flops = (
        2 * max(batch, problem.batch) * heads * q_len * problem.k_len * (dim + out.shape[-1]) * (3.5 if backward else 1)
    )
    result: dict[str, Any] = {
        "case": name + (f" + {extra}" if extra else ""),
        "dtype": str(dtype).removeprefix("torch."),
        "direction": "forward+backward" if backward else "forward",
        "milliseconds": {peer: statistics.median(values) * 1e3 for peer, values in times.items()},
        "gflops": {peer: flops / statistics.median(values) / 1e9 for peer, values in times.items()},
    }
    for peer in ("sdpa", "naive"):
        ratios = sorted(theirs / own for theirs, own in zip(times[peer], times["mmkernels"], strict=True))
        quarter = len(ratios) // 4
        result[f"times faster than {peer}"] = {
            "median": statistics.median(ratios), "low": ratios[quarter], "high": ratios[-1 - quarter],
        }  # fmt: skip
    return result


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "mmkernels": mmk.__version__,
        "mmkernels_isa": torch.ops.mmkernels_cpu.isa(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Run the cases, print a table, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "float16"])
    parser.add_argument("--only", nargs="+", help="parts of case names")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    about = machine()
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    print(f"{'case':36s} {'dtype':9s} {'direction':17s} {'ms':>8s} {'GFLOP/s':>8s}   x sdpa (middle half)   x naive")
    results = []
    for dtype in args.dtypes:
        for name, extra in CASES:
            if args.only and not any(part in f"{name} + {extra}" for part in args.only):
                continue
            for backward in (False, True):
                row = measure(name, extra, getattr(torch, dtype), backward, args.rounds)
                results.append(row)
                sdpa = row["times faster than sdpa"]
                spread = f"{sdpa['median']:5.2f} ({sdpa['low']:.2f} to {sdpa['high']:.2f})"
                print(
                    f"{row['case']:36s} {dtype:9s} {row['direction']:17s} {row['milliseconds']['mmkernels']:8.2f} "
                    f"{row['gflops']['mmkernels']:8.1f}   {spread}   {row['times faster than naive']['median']:6.2f}",
                    flush=True,
                )
    if args.json:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
        partial.rename(args.json)


if __name__ == "__main__":
    main()
