"""A block of one task that somebody else may end early.

Knows asyncio only. `SequenceRun` works inside one.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class CancelScope:
    """`cancel` ends the block wherever it waits, without a trace outside of it; it may come before the block too.

    Unlike `Task.cancel`, it is never mistaken for the end of the task itself, and it finds a task that has not run yet.
    """

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self._entered = False
        self.cancelled = False

    def cancel(self) -> None:
        """Idempotent, and harmless once the block has ended."""
        if not self.cancelled:
            self.cancelled = True
            self._expire()

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._entered = True
        if self.cancelled:
            self._expire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._entered = False
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            return True
        return False

    def _expire(self) -> None:
        if self._entered:
            self._timeout.reschedule(asyncio.get_running_loop().time())
