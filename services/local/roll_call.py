"""Who of the expected processes is ready, by their beats. Knows no NATS: `supervisor` feeds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from shared.errors import BatonError, DeadlineExceeded
from shared.protocol.to_all import Beat, WorkerState


class RollCall:
    """Waits for `names`. `on_ready(name)` is told at the first ready beat after each start of a process."""

    def __init__(self, names: Iterable[str], on_ready: Callable[[str], None]) -> None:
        self._boots: dict[str, str] = dict.fromkeys(names, "")
        self._on_ready = on_ready
        self._complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def missing(self) -> list[str]:
        return [name for name, boot in self._boots.items() if not boot]

    def hear(self, beat: Beat) -> None:
        if self._boots.get(beat.worker) == beat.boot or beat.worker not in self._boots:
            return
        if beat.state is not WorkerState.READY:
            return
        self._boots[beat.worker] = beat.boot
        self._on_ready(beat.worker)
        if not self.missing and not self._complete.done():
            self._complete.set_result(None)

    def give_up(self, error: BatonError) -> None:
        """Somebody will never be ready: `complete` raises `error`."""
        if not self._complete.done():
            self._complete.set_exception(error)

    async def complete(self, timeout_s: float) -> None:
        """Raises DeadlineExceeded that names the missing, or what `give_up` was given."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._complete)
        except TimeoutError:
            raise DeadlineExceeded(f"not ready within {timeout_s:.0f} s: {', '.join(self.missing)}") from None
