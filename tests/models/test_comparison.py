"""The comparison's instruments: peak memory, one long problem, a process per side."""

from __future__ import annotations

import pytest
import torch

from mmkernels import _native
from mmkernels.models.comparison import compare, long_attention, output_differences, peak_memory, run_in_process

needs_native = pytest.mark.skipif(not _native.loaded, reason=f"no C++ kernels: {_native.why_not_loaded}")


def test_peak_memory_sees_what_is_freed_again():
    """256 MiB, because a system that takes back pages of the process's files meanwhile hides some MiB of it."""

    def allocate():
        return torch.full((256 * 2**18,), 0.5).max().item()  # gone when it returns

    result, peak = peak_memory(allocate)
    assert result == 0.5
    assert 224 * 2**20 < peak < 400 * 2**20
    _, small = peak_memory(lambda: None)
    assert small < 16 * 2**20


@needs_native
@pytest.mark.slow
def test_long_attention_needs_less_memory_than_the_naive_path():
    fused, naive = long_attention("cpu", repeats=1), long_attention("reference", repeats=1)
    scores = 4 * 2048 * (77 + 4096) * 4  # one matrix of logits, in bytes
    assert fused["peak bytes"] < scores < naive["peak bytes"]


def test_outputs_of_a_trained_model_agree(trained, corpus):
    differences = output_differences(trained.checkpoint(), corpus, None)
    assert set(differences) == {"image embeddings", "text embeddings", "caption logits", "answer logits"}
    assert all(value < 1e-3 for value in differences.values()), differences


@pytest.mark.slow
def test_both_sides_run_in_processes_of_their_own():
    result = compare(seed=0, threads=1, steps=3, preset="tiny")
    assert len(result["fused"]["losses"]) == len(result["naive"]["losses"]) == 3
    assert result["within tolerance"] and result["naive"]["training peak bytes"] > 0


def test_failed_process_is_reported():
    with pytest.raises(RuntimeError, match=r"backend nonsense failed: .*backend must be None or one of"):
        run_in_process("nonsense", 0, 1, 1, "tiny")
