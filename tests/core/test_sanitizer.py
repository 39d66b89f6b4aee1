"""The instrument itself: under `make sanitize` an error on purpose stops the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(
    "MMKERNELS_TEST_MODULE" not in os.environ, reason="the module is instrumented by make sanitize only"
)
@pytest.mark.parametrize(("index", "seen"), [(3, False), (4, True)])
def test_a_read_past_the_end_is_seen(core, index, seen):
    code = (
        f"import sys; sys.path.insert(0, {os.environ['MMKERNELS_TEST_MODULE']!r}); import mmk_core_tests\n"
        f"print(mmk_core_tests.read_heap(4, {index}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ("AddressSanitizer: heap-buffer-overflow" in result.stderr) == seen
    assert (result.returncode != 0) == seen
