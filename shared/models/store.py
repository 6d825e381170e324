"""Finds the folder of a model by what a person calls it: a catalogue name, a local folder, or a hub name pulled before.

Never downloads and never imports torch. The gateway and the workers call `resolve` at their start; `pull.py` fills the
cache it looks in.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from shared.errors import ModelNotFound, UnsupportedModel
from shared.models.catalogue import CATALOGUE, nearest
from shared.models.facts import ModelFacts, read_model_facts
from shared.models.manifest import read_manifest

__all__ = [
    "ModelFacts",
    "ModelFolder",
    "check_model_folder",
    "file_name",
    "is_hub_name",
    "model_path",
    "read_model_facts",
    "resolve",
    "unknown_model",
]

_REQUIRED_FILES = ("config.json", "tokenizer.json")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class ModelFolder(msgspec.Struct, frozen=True):
    """A model that can be loaded: `name` is what clients call it, `path` holds its safetensors and tokenizer."""

    name: str
    path: Path


def resolve(model: str, cache_dir: Path) -> ModelFolder:
    """The folder of `model`: catalogue names first, then an existing local folder, then what was pulled from a hub.

    Raises ModelNotFound, which says what to run, and UnsupportedModel for a folder that cannot be served.
    """
    name = model.lower() if model.lower() in CATALOGUE else model
    local = Path(model).expanduser()
    if name not in CATALOGUE and local.is_dir():
        check_model_folder(local)
        return ModelFolder(local.resolve().name, local.resolve())
    return _pulled(name, cache_dir)


def model_path(name: str, cache_dir: Path) -> Path:
    """Where the model called `name` lies once it is pulled."""
    return cache_dir / "models" / file_name(name)


def file_name(name: str) -> str:
    """`name` as one component of a path."""
    return name.replace("/", "--")


def check_model_folder(folder: Path) -> None:
    """Raises UnsupportedModel unless `folder` holds a configuration, a fast tokenizer and safetensors weights."""
    missing = [file for file in _REQUIRED_FILES if not (folder / file).is_file()]
    if missing:
        raise UnsupportedModel(f"{folder} is not a model folder: it has no {' and no '.join(missing)}")
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in _PICKLED for path in folder.glob(pattern)):
        raise UnsupportedModel(f"{folder} holds pickled weights, which can run code: only safetensors load")
    raise UnsupportedModel(f"{folder} holds no weights: only safetensors load")


def _pulled(name: str, cache_dir: Path) -> ModelFolder:
    path = model_path(name, cache_dir)
    manifest = read_manifest(path)
    if manifest is not None and manifest.is_complete(path):
        check_model_folder(path)
        return ModelFolder(name, path)
    if path.is_dir():
        raise ModelNotFound(f"the copy of {name} in {path} is damaged: run `baton pull {name}`", param="model")
    if name in CATALOGUE or is_hub_name(name):
        raise ModelNotFound(f"the model {name} is not here yet: run `baton pull {name}`", param="model")
    raise ModelNotFound(unknown_model(name), param="model")


def unknown_model(name: str) -> str:
    """What to tell a person who asked for `name`."""
    close = nearest(name, CATALOGUE)
    hint = f"did you mean {close}?" if close else f"known names are: {', '.join(sorted(CATALOGUE))}"
    return f"there is no model or folder called {name!r}; {hint} (a folder, or org/name of a hub, works too)"


def is_hub_name(name: str) -> bool:
    """Whether `name` reads like `org/name`."""
    return _HUB_NAME.fullmatch(name) is not None
