"""How one endpoint says a choice: `completions.py` and `chat.py` have theirs."""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.gateway.generation import Delta


class Format(Protocol):
    """How one endpoint says a choice."""

    whole_object: str
    chunk_object: str

    def whole(self, index: int, delta: Delta) -> msgspec.Struct:
        """A choice of a whole answer; `delta` is all of it."""

    def piece(self, index: int, delta: Delta, *, first: bool, text_offset: int) -> msgspec.Struct:
        """A choice of a chunk; `text_offset` counts the characters of the tokens before it."""
