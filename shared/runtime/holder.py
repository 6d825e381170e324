"""Who holds sessions: what tenure needs of a worker."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

import msgspec


class Holding(msgspec.Struct, frozen=True):
    """One session of a gateway, in one epoch, on a worker."""

    gateway: str
    session: str
    epoch: int


class Holder(Protocol):
    """A worker, as far as its sessions are concerned."""

    def held(self) -> list[Holding]:
        """All that have not ended."""

    def drop(self, holdings: Set[Holding]) -> None:
        """End these and free their memory; tell nobody."""
