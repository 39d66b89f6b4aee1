"""The matrix of logits is neither built nor kept: the peak of a large batch, and what autograd saves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.backends import DEFAULT, EVERY, runs
from tests.contrastive.naive import KINDS, embeddings, fused

ROOT = Path(__file__).resolve().parents[2]
PAIRS, MIB = 8192, 1 << 20
MATRIX = PAIRS * PAIRS * 4
ALLOWED = {"cpu": MATRIX / 8, "reference": MATRIX / 2}
"""What forward and backward may take, gradients of 4 MiB included: the reference works with blocks of 256 rows."""

PEAK = """
import sys
import torch
import torch.nn.functional as F
import mmkernels as mmk
backend, kind, pairs, positives = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(2)

def status(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

def step(n):
    image, text = (F.normalize(torch.randn(n, 64), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(20.0, requires_grad=True)
    targets = torch.arange(n).roll(3) if positives == "index" else None
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak starts anew from what is in use now
    before = status("VmRSS")
    if backend == "plain":
        logits = scale * image @ text.T
        F.cross_entropy(logits, torch.arange(n)).backward()
    else:
        mmk.contrastive_loss(image, text, scale, kind=kind, targets=targets, backend=backend).backward()
    return status("VmHWM") - before

step(300)
print(step(pairs))
"""


def peak_of(backend: str, kind: str, pairs: int = PAIRS, positives: str = "pairs") -> int:
    command = [sys.executable, "-c", PEAK, backend, kind, str(pairs), positives]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")


@linux
@runs(*DEFAULT)
@pytest.mark.parametrize("kind", KINDS)
def test_peak_of_a_large_batch(kind, run):
    """Forward and backward of 8192 pairs stay far below one matrix of logits, 256 MiB."""
    with run.active() as backend:
        extra = peak_of(backend, kind)
    assert extra < ALLOWED[backend], f"{extra / MIB:.0f} MiB"


@pytest.mark.slow
@linux
@runs(*DEFAULT)
@pytest.mark.parametrize("kind", KINDS)
def test_peak_with_index_targets(kind, run):
    with run.active() as backend:
        extra = peak_of(backend, kind, positives="index")
    assert extra < ALLOWED[backend], f"{extra / MIB:.0f} MiB"


@linux
def test_the_peak_shows_a_matrix():
    assert peak_of("plain", "softmax", 2048) > 2048 * 2048 * 4


@runs(*EVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_the_backward(kind, run):
    """The operands and at most four numbers per pair; of the sigmoid kind the gradients made with the loss, too."""
    rows = 512
    operands = embeddings(rows, rows, 8, torch.float32)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), run.active() as backend:
        fused(operands, kind=kind, backend=backend)
    own = {tensor.untyped_storage().data_ptr() for tensor in operands}
    assert own <= kept.keys() | {operands[3].untyped_storage().data_ptr()}  # the instrument sees the embeddings
    made = 2 * 4 * 8 * rows if kind == "sigmoid" else 0
    assert made <= sum(size for pointer, size in kept.items() if pointer not in own) <= made + 4 * 4 * rows
