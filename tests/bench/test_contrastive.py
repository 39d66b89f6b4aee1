"""The cases of the contrastive loss: every way of every provider gives what ours gives; the large batch's program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import large_batch
from bench.case import Case
from bench.contrastive import providers
from bench.contrastive.accuracy import reference
from bench.contrastive.problems import Problem, make_call, work
from bench.contrastive.providers import PROVIDERS, Chunked

OURS, NAIVE, COMPILED = PROVIDERS
KINDS = ("softmax", "sigmoid")


def small(kind: str, dtype: str, backward: bool = True):
    return make_call(Problem("small", 70, 24, kind), dtype, backward)


def results_of(provider, call):
    return [{name: x.detach() for name, x in way.results(way.run()).items()} for way in provider.prepare(call)]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_torch(kind: str, backward: bool) -> None:
    """The loss, and every gradient, within the rule's bounds around fp64, as ours."""
    call = small(kind, "float32", backward)
    expected = reference(call)
    for provider in (OURS, NAIVE):
        ways = results_of(provider, call)
        assert len(ways) == (1 if provider is OURS else 2)
        for found in ways:
            assert set(found) == {"loss"} | ({f"grad {leaf}" for leaf in call.leaves()} if backward else set())
            assert expected.error(found).allowed <= (1 if provider is OURS else 2), provider.name


@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16(kind: str) -> None:
    """Ours is within the bounds; torch's sums are rounded to bf16."""
    call = small(kind, "bfloat16")
    expected = reference(call)
    (ours,) = results_of(OURS, call)
    assert expected.error(ours).allowed <= 1
    for found in results_of(NAIVE, call):
        for name, tensor in found.items():
            most = float(expected.expected[name].abs().max())
            assert (tensor.double() - expected.expected[name]).abs().max() <= 0.05 * max(most, 0.1), name


@pytest.mark.parametrize("chunk", [16, 70, 256])
def test_chunks_of_rows(chunk: int, monkeypatch) -> None:
    """Also where the last chunk is smaller."""
    monkeypatch.setattr(providers, "CHUNK", chunk)
    call = small("softmax", "float32")
    (found,) = results_of(Chunked(), call)
    assert reference(call).error(found).allowed <= 2
    assert Chunked().why_not(Case(Problem("other", 4, kind="sigmoid"), "float32", True, ())) is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled(kind: str) -> None:
    """Compiles for seconds each."""
    call = small(kind, "float32")
    expected = reference(call)
    for found in results_of(COMPILED, call):
        assert expected.error(found).allowed <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_results_are_seen(kind: str) -> None:
    """A gradient that is 1 % too large, and one NaN."""
    call = small(kind, "float32")
    expected = reference(call)
    (found,) = results_of(OURS, call)
    for result in found:
        assert expected.error(found | {result: 1.01 * found[result]}).allowed > 1, result
        spoiled = found[result].clone()
        spoiled.view(-1)[0] = torch.nan
        assert expected.error(found | {result: spoiled}).absolute == float("inf"), result


def test_work():
    both, forward = work(small("softmax", "float32")), work(small("softmax", "bfloat16", False))
    assert forward.flops == 2 * 70 * 70 * 24 and forward.bytes == 2 * 70 * 24 * 2
    assert both.flops == 4 * forward.flops and both.bytes == 3 * 2 * 70 * 24 * 4
    assert work(small("sigmoid", "float32")).flops == 3 * forward.flops


def test_large_batch_in_small(tmp_path: Path, capsys) -> None:
    """Both sides, each in its process, agree in less than half a matrix of logits; results are not kept in the file."""
    out = tmp_path / "large.json"
    assert large_batch.main(["--pairs", "4096", "--dim", "16", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["met"] is True and set(found["runs"]) == {"mmkernels", "chunked"}
    for side in found["runs"].values():
        assert side["seconds"] > 0 and side["extra bytes"] < 4096 * 4096 * 4 / 2 and "results" not in side
    assert set(found["difference"]) == {"loss", "grad image", "grad text", "grad scale"}
    assert max(found["difference"].values()) < 1e-4
    assert "at most 2 GiB" in capsys.readouterr().out


def test_large_batch_says_why_a_side_is_missing(tmp_path: Path, monkeypatch, capsys) -> None:
    def died(request, *rest):
        raise OSError("the process that measures memory failed: exit status -9")

    monkeypatch.setattr(large_batch, "in_process", died)
    assert large_batch.main(["--kind", "sigmoid", "--out", str(tmp_path / "large.json")]) == 0
    printed = capsys.readouterr().out
    assert "exit status -9" in printed and "the softmax kind only" in printed and ": -" in printed
