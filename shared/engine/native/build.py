"""Builds the native library with the machine's own C++ compiler, once, and keeps it in a cache folder.

The name of the built file is a hash of everything it depends on: sources, compiler, flags and the processor, whose
instructions it uses. `library` calls it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import filelock

SOURCES = Path(__file__).parent / "src"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    # The roundings are the code's own: no product and sum become one unless it says so.
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-w",
    "-shared",
    "-fPIC",
)
# Several threads. Without it the kernels run on one, and products go to the library where there are to be several.
_THREADS = "-fopenmp"
_COMPILERS = ("c++", "g++", "clang++")
_CPU_INFO = Path("/proc/cpuinfo")
_LOCK_TIMEOUT_S = 300.0
_BUILD_TIMEOUT_S = 140.0

_log = logging.getLogger(__name__)


class BuildFailed(Exception):
    """The library cannot be built here; the message says why."""


def built_library(cache: Path, flags: Sequence[str] = FLAGS) -> Path:
    """The library for this machine, below `cache`; built if it is not there. Raises BuildFailed or OSError."""
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise BuildFailed(f"none of {', '.join(_COMPILERS)} is installed")
    folder = _own_folder(cache / "native")
    built = folder / f"baton-{_fingerprint(compiler, flags)}.so"
    if built.exists():
        return built
    try:
        with filelock.FileLock(built.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S):
            if not built.exists():
                _log.info("building native kernels, which takes some seconds, once: %s", built)
                _build(compiler, flags, built)
    except filelock.Timeout as error:
        raise BuildFailed(f"another process has been building {built} for {_LOCK_TIMEOUT_S:.0f} s") from error
    return built


def _own_folder(folder: Path) -> Path:
    """`folder`, made when missing. Raises BuildFailed when others could put code of theirs there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise BuildFailed(f"{folder} belongs to, or may be written by, other users")
    return folder


def _build(compiler: str, flags: Sequence[str], built: Path) -> None:
    """Compile beside `built` and move there at the end, so that no half a library is ever seen."""
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        made = Path(folder) / built.name
        command = [compiler, *flags, *sorted(map(str, SOURCES.glob("*.cpp"))), "-o", str(made)]
        try:
            _run([*command, _THREADS])
        except BuildFailed as error:
            _run(command)
            _log.warning("native kernels are built without OpenMP: %s", error)
        made.replace(built)


def _run(command: Sequence[str]) -> None:
    compiler = command[0]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{compiler} took more than {_BUILD_TIMEOUT_S:.0f} s") from error
    if run.returncode:
        first = next(iter(run.stderr.strip().splitlines()), f"status {run.returncode}")
        raise BuildFailed(f"{compiler}: {first}")


def _fingerprint(compiler: str, flags: Sequence[str]) -> str:
    status = Path(compiler).resolve().stat()
    parts = [compiler, str(status.st_size), str(status.st_mtime_ns), *flags, _THREADS, _processor()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """What the first processor calls itself and can do."""
    try:
        first = _CPU_INFO.read_text().split("\n\n", 1)[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    names = ("model name", "cpu family", "model\t", "stepping", "flags", "Features", "CPU part", "CPU implementer")
    return "\n".join(line for line in first.splitlines() if line.startswith(names))
