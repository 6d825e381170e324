"""How many bytes of bodies all connections together hold while they arrive and are read. Plain object, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import Overloaded

RETRY_AFTER_MS = 1000


class Share:
    """What one body holds; grows as it arrives."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.held_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """Raises Overloaded when that is more than there is."""
        self._memory.take(size_bytes)
        self.held_bytes += size_bytes


class BodyMemory:
    """`limit_bytes` in all. A body counts for what has come of it: to announce much holds nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The share of one body, given back with the context."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held_bytes -= share.held_bytes

    def take(self, size_bytes: int) -> None:
        """Raises Overloaded."""
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise Overloaded("too many bytes of requests arrive at once", retry_after_ms=RETRY_AFTER_MS)
        self.held_bytes += size_bytes
