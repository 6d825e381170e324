"""The list of files and checksums in every pulled model folder: how a whole model is told from a damaged one.

Knows nothing of models. `pull.py` writes and verifies it, `store.py` reads it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

MANIFEST_FILE = "baton-manifest.json"


class FileRecord(msgspec.Struct, frozen=True):
    """Size and SHA-256 (hex) of one file."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a pulled folder holds and where it came from. `files` is keyed by the path inside the folder."""

    name: str
    source: str
    licence: str | None
    files: dict[str, FileRecord]
    version: int = 1

    def is_complete(self, folder: Path) -> bool:
        """Whether every file is there with its size. Reads no content."""
        return all(_size(folder / path) == record.size_bytes for path, record in self.files.items())

    def is_intact(self, folder: Path) -> bool:
        """Whether every file is there with its content. Reads all of it."""
        return self.is_complete(folder) and all(
            file_sha256(folder / path) == record.sha256 for path, record in self.files.items()
        )


def write_manifest(folder: Path, *, name: str, source: str, licence: str | None) -> None:
    """Record all files now in `folder`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    files = {path.relative_to(folder).as_posix(): FileRecord(path.stat().st_size, file_sha256(path)) for path in paths}
    manifest = Manifest(name=name, source=source, licence=licence, files=files)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in `folder`; None when there is none that can be read."""
    try:
        return msgspec.json.decode((folder / MANIFEST_FILE).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def file_sha256(path: Path) -> str:
    """Lower-case hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
