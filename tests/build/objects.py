"""The CPU kernels of the built library, for what the tests link themselves."""

from __future__ import annotations

import pytest

from tools import native


def cpu_objects() -> list[str]:
    """Object files of csrc/cpu, as the present sources name them; what an earlier build left beside them is not used."""
    build = native.library()
    objects = [build.folder / name for name, source, _ in build.compiles if "cpu" in source.relative_to(native.ROOT).parts]
    if not all(path.exists() for path in objects):
        pytest.skip("the objects of the build are not there: the library was built elsewhere")
    return [str(path) for path in objects]
