"""What a call costs beyond its arithmetic: mmkernels.attention against torch's SDPA on a problem with hardly any.

``python bench/call_overhead.py [--repeats 300] [--calls 20] [--json]``: medians over interleaved repeats, microseconds.
Repeats are short, so that another process rarely falls into one.
Budget: torch + 10 us without gradients, torch + 30 us with (forward and backward).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import mmkernels as mmk

BUDGET = {"forward": 10.0, "forward + backward": 30.0}


def _microseconds(function: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begin) / calls * 1e6


def measure(repeats: int, calls: int) -> dict[str, dict[str, float]]:
    """Medians of torch's and our time per call, and the median of their differences within a repeat."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 4, 16) for _ in range(3))
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    upstream = torch.ones_like(query)

    def backward(attention: Callable[..., torch.Tensor]) -> None:
        torch.autograd.grad(attention(*leaves), leaves, upstream)

    cases: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "forward": (
            lambda: F.scaled_dot_product_attention(query, key, value),
            lambda: mmk.attention(query, key, value),
        ),
        "forward + backward": (lambda: backward(F.scaled_dot_product_attention), lambda: backward(mmk.attention)),
    }
    results = {}
    for name, (torch_call, our_call) in cases.items():
        _microseconds(torch_call, calls), _microseconds(our_call, calls)
        pairs = [(_microseconds(torch_call, calls), _microseconds(our_call, calls)) for _ in range(repeats)]
        results[name] = {
            "torch_us": statistics.median(pair[0] for pair in pairs),
            "mmkernels_us": statistics.median(pair[1] for pair in pairs),
            "difference_us": statistics.median(ours - theirs for theirs, ours in pairs),
            "budget_us": BUDGET[name],
        }
    return results


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments.repeats, arguments.calls)
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{'us per call':<20}{'torch':>10}{'mmkernels':>12}{'difference':>12}{'budget':>9}")
    for name, row in results.items():
        print(
            f"{name:<20}{row['torch_us']:>10.1f}{row['mmkernels_us']:>12.1f}{row['difference_us']:>12.1f}"
            f"{row['budget_us']:>9.0f}"
        )


if __name__ == "__main__":
    main()
