"""What an installed wheel must do in an environment of its own: `python tests/build/installed.py [--cuda]`.

Run by tools/wheels.py from a folder that does not hold the package, so that the installed one is imported.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cuda", action="store_true", help="the wheel holds the CUDA library")
    with_cuda = parser.parse_args().cuda

    import torch

    of_torch = set(sys.modules)
    start = time.perf_counter()
    import mmkernels as mmk

    seconds = time.perf_counter() - start
    assert not Path(mmk.__file__).is_relative_to(Path.cwd() / "mmkernels"), "the package of the source tree"
    brought = {"triton", "transformers", "diffusers"} & (set(sys.modules) - of_torch)
    assert not brought, f"import brought {brought}"
    assert mmk.backends()["cpu"]["available"], mmk.backends()

    torch.manual_seed(0)
    query, key = (torch.randn(2, 4, length, 16, requires_grad=True) for length in (7, 33))
    out = mmk.attention(query, key, key, backend="cpu")
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, key)
    torch.testing.assert_close(out, expected)
    gradients, wanted = (torch.autograd.grad(each.sum(), [query, key]) for each in (out, expected))
    torch.testing.assert_close(gradients, wanted, atol=1e-5, rtol=1e-5)

    first, second = torch.randn(5, 8), torch.randn(5, 6)
    weight, bias = torch.randn(12, 14), torch.randn(12)
    fused = mmk.concat_fusion([first, second], weight, bias, backend="cpu")
    torch.testing.assert_close(fused, torch.nn.functional.linear(torch.cat([first, second], -1), weight, bias))

    left, right = (torch.nn.functional.normalize(torch.randn(9, 16), dim=-1) for _ in range(2))
    logits = 10.0 * left @ right.T
    target = torch.arange(9)
    loss = (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(mmk.contrastive_loss(left, right, torch.tensor(10.0), backend="cpu"), loss)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that no hardware has verified
        told = str(mmk.explain(query, key, key))
    print(told)
    if with_cuda:
        from mmkernels import _native_cuda

        reason = _native_cuda.why_not_loaded()
        assert (reason is None) == (torch.version.cuda is not None), f"loaded where torch is a CUDA build: {reason}"
        print(f"the CUDA library: {_native_cuda.description()}")
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}: ok; import after torch {1000 * seconds:.0f} ms")


if __name__ == "__main__":
    main()
