"""The native kernels for tests: built once for the user, skipped where the machine has no C++ compiler."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest

from shared.engine import native
from shared.engine.native import Kernels, build
from shared.engine.native.library import open_library
from shared.runtime.settings import cache_folder, process_environment

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


# What every processor of this architecture has: the plain code beside the intrinsics.
PLAIN_FLAGS = tuple("-O2" if flag == "-O3" else flag for flag in build.FLAGS if flag != "-march=native")


@functools.cache
def native_kernels(threads: int = 1) -> Kernels:
    """The kernels of this machine. Use it in tests marked `needs_compiler`."""
    kernels = native.load(_cache(), threads=threads)
    assert kernels is not None, "the native kernels did not build"
    return kernels


@functools.cache
def shared_kernels() -> Kernels:
    """The same on three threads: no divisor of what tests count by."""
    return native_kernels(3)


@functools.cache
def lone_kernels() -> Kernels:
    """The same where the compiler has no OpenMP, asked for three threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_THREADS", "-fno-openmp")
        return open_library(build.built_library(_cache()), 3)


@functools.cache
def plain_kernels() -> Kernels:
    """The same for any machine."""
    return open_library(build.built_library(_cache(), PLAIN_FLAGS))


def _cache() -> Path:
    return cache_folder(process_environment().get("BATON_CACHE_DIR", ""))
