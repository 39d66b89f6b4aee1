"""The CPU kernels of the built library, for what the tests link themselves."""

from __future__ import annotations

import pytest

from tools import native


def cpu_objects() -> list[str]:
    """Object files of csrc/cpu, as the present sources name them; an earlier build may have left others beside them."""
    build, kernels = native.library(), native.ROOT / "csrc" / "cpu"
    objects = [build.folder / name for name, source, _ in build.compiles if source.is_relative_to(kernels)]
    if not all(path.exists() for path in objects):
        pytest.skip("the objects of the build are not there: the library was built elsewhere")
    return [str(path) for path in objects]
