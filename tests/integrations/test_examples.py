"""The five scripts of examples/ that show a model before and after: they run, and both sides agree."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("name, arguments, said", [
    pytest.param("multihead_attention", ["--tokens", "24", "--seconds", "0.01"], "mmk.patch"),
    pytest.param("joint_block", ["--text", "5", "--image", "24", "--seconds", "0.01"], "mmkernels",
                 marks=pytest.mark.slow),
    pytest.param("clip", ["--batch", "2", "--layers", "1", "--seconds", "0.01"], "mmkernels", marks=pytest.mark.slow),
    pytest.param("flan_t5", ["--tokens", "24", "--layers", "1", "--seconds", "0.01"], "replaced: 3",
                 marks=pytest.mark.slow),
    pytest.param("mllama", ["--tokens", "3"], "mmkernels", marks=pytest.mark.slow),
])  # fmt: skip
def test_example(name, arguments, said, capsys):
    if name in ("clip", "flan_t5", "mllama"):
        pytest.importorskip("transformers", reason="transformers is not installed")
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    difference = module.main(arguments)
    assert said in capsys.readouterr().out
    assert 0 < difference < 1e-4
