"""Loads the native library, built when it is not there yet. Engines call `load` once."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

from shared.engine.native.build import BuildFailed, built_library
from shared.engine.native.calls import FUNCTIONS
from shared.engine.native.kernels import Kernels

_log = logging.getLogger(__name__)


def load(cache: Path | None = None, *, threads: int = 1, told: bool = False) -> Kernels | None:
    """The kernels, on `threads` threads.

    They are built into `cache` (default: `baton` in the user's cache folder) when they are not there yet. None, with
    one line in the log unless it has been `told`, when this machine cannot build or load them. Blocks for seconds when
    it builds.
    """
    try:
        return open_library(built_library(cache or Path.home() / ".cache" / "baton"), threads)
    except (BuildFailed, OSError, RuntimeError, AttributeError) as error:
        _log.log(logging.DEBUG if told else logging.WARNING, "no native kernels, the slower path is taken: %s", error)
        return None


def open_library(path: Path, threads: int = 1) -> Kernels:
    """The kernels in a built library. Raises OSError or AttributeError when it is none."""
    library = ctypes.CDLL(str(path))
    for name, call in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = (ctypes.POINTER(call),), ctypes.c_int
    return Kernels(library, threads)
