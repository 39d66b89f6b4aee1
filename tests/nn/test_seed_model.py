"""The example of the textbook model runs, learns, and gives the same loss curve with and without mmkernels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mmkernels.models import openmoji

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "seed_model.py"


def load_example():
    spec = importlib.util.spec_from_file_location("seed_model", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_seed_model(capsys):
    try:
        openmoji.package_versions()
    except ValueError as error:
        pytest.skip(str(error))
    difference = load_example().main(["--steps", "30", "--limit", "300", "--backend", "reference"])
    printed = capsys.readouterr().out
    first, last = (float(x) for x in printed.split("mmk.nn.ConcatFusion")[1].splitlines()[0].split()[-3::2])
    assert last < first - 0.5  # it learns
    assert 0 <= difference < 1e-4  # fp32, 30 steps of the same numbers summed in another order
