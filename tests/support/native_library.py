"""The native kernels for tests: built once for the user, skipped where the machine has no C++ compiler."""

from __future__ import annotations

import functools
import shutil

import pytest

from shared.engine import native
from shared.engine.native import Kernels
from shared.runtime.settings import cache_folder, process_environment

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@functools.cache
def native_kernels() -> Kernels:
    """The kernels of this machine. Use it in tests marked `needs_compiler`."""
    kernels = native.load(cache_folder(process_environment().get("BATON_CACHE_DIR", "")))
    assert kernels is not None, "the native kernels did not build"
    return kernels
