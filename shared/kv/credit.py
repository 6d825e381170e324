"""Credit in bytes, as cumulative counters: a lost or repeated grant does no harm.

The receiver grants what it has taken in plus its window; the sender never publishes beyond what was granted.
"""

from __future__ import annotations

import asyncio

GRANT_STEP = 4


class SendCredit:
    """The sender's side of one transfer."""

    def __init__(self, granted_bytes: int) -> None:
        self._granted_bytes = granted_bytes
        self._published_bytes = 0
        self._over = False
        self._grew = asyncio.Event()

    @property
    def published_bytes(self) -> int:
        return self._published_bytes

    def grant(self, total_bytes: int) -> None:
        """The receiver allows `total_bytes` since the transfer began. Older, smaller grants change nothing."""
        if total_bytes > self._granted_bytes:
            self._granted_bytes = total_bytes
            self._grew.set()

    def end(self) -> None:
        """The transfer is over: nobody waits for credit any more, and nothing may be published."""
        self._over = True
        self._grew.set()

    def try_take(self, size_bytes: int) -> bool:
        """Count `size_bytes` as published, if so much more may be published now."""
        if self._over or self._published_bytes + size_bytes > self._granted_bytes:
            return False
        self._published_bytes += size_bytes
        return True

    async def take(self, size_bytes: int) -> bool:
        """Wait until `size_bytes` more may be published, and count them as published. False: the transfer is over."""
        while not self.try_take(size_bytes):
            if self._over:
                return False
            self._grew.clear()
            await self._grew.wait()
        return True


class ReceiveCredit:
    """The receiver's side of one transfer."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes
        self._taken_bytes = 0
        self._granted_bytes = window_bytes

    @property
    def granted_bytes(self) -> int:
        return self._granted_bytes

    def take_in(self, size_bytes: int) -> int | None:
        """Count what arrived, good or bad. Returns a new total to grant when it is worth a message."""
        self._taken_bytes += size_bytes
        due = self._taken_bytes + self._window_bytes
        if due - self._granted_bytes < self._window_bytes // GRANT_STEP:
            return None
        self._granted_bytes = due
        return due

    def settle(self, published_bytes: int) -> int:
        """The sender says it has published so much, and all of it has arrived or is lost: the new total to grant."""
        self._taken_bytes = max(self._taken_bytes, published_bytes)
        self._granted_bytes = self._taken_bytes + self._window_bytes
        return self._granted_bytes
