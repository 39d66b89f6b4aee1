"""Puts the C++ libraries (tools/native.py builds them) into wheels and editable installs.

The metadata is static, in pyproject.toml. MMKERNELS_NO_NATIVE=1 makes a pure Python package that runs on the reference
backend; without it a build that cannot make a library that is wanted fails. docs/building.md has the other switches.
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tools import cuda, native
from tools.machine import BuildError, is_on

NO_NATIVE = is_on("MMKERNELS_NO_NATIVE")


class BuildNative(build_ext):
    """Lets ninja build the library where setuptools wants an extension module, and the CUDA one beside it."""

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        try:
            # all before the first runs: what is refused needs no minutes of compiling
            builds = [native.library(output, for_wheel=not self.editable_mode)]
            if cuda.wanted():
                builds.append(native.cuda_library(output.with_name(native.CUDA_LIBRARY)))
            for build in builds:
                build.run()
        except BuildError as error:
            raise CompileError(str(error)) from error  # setuptools shows its sentence, and no traceback


setup(
    ext_modules=[] if NO_NATIVE else [Extension("mmkernels._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildNative},
    # one wheel for every CPython from 3.10 on: the library uses torch's stable ABI and nothing of Python's
    options={} if NO_NATIVE else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
