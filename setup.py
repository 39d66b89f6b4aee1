"""Puts the C++ library (tools/native.py builds it) into wheels and editable installs.

The metadata is static, in pyproject.toml. MMKERNELS_NO_NATIVE=1 makes a pure Python package that runs on the reference
backend; without it a build that cannot make the library fails.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))

import native

NO_NATIVE = os.environ.get("MMKERNELS_NO_NATIVE", "").strip().lower() in ("1", "true", "yes", "on")


class BuildNative(build_ext):
    """Lets ninja build the library where setuptools wants an extension module."""

    def build_extension(self, ext: Extension) -> None:
        native.library(Path(self.get_ext_fullpath(ext.name))).run()


setup(
    ext_modules=[] if NO_NATIVE else [Extension("mmkernels._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": BuildNative},
    # one wheel for every CPython from 3.10 on: the library uses torch's stable ABI and nothing of Python's
    options={} if NO_NATIVE else {"bdist_wheel": {"py_limited_api": "cp310"}},
)
