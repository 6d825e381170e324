"""The beat a process sends: at its interval, and at once when something changed that others place by."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from shared.bus.connection import Bus
from shared.errors import BatonError
from shared.protocol import subjects
from shared.protocol.to_all import Beat
from shared.protocol.wire import encode

logger = logging.getLogger(__name__)

MIN_GAP_S = 0.02


def new_boot() -> str:
    """An id that changes at every start."""
    return secrets.token_hex(4)


def next_boot(boot: str) -> str:
    """Another id for the same process, which has let go of all it held: to others it was started anew."""
    process, _, number = boot.partition(".")
    return f"{process}.{int(number or 0) + 1}"


def same_process(boot: str, other: str) -> bool:
    """Whether the two are of one process, which then has not died between them."""
    return boot.partition(".")[0] == other.partition(".")[0]


class Heartbeat:
    """Publishes `make()` until cancelled. `changed()` brings the next beat forward, at most one per `MIN_GAP_S`."""

    def __init__(self, bus: Bus, make: Callable[[], Beat], interval_s: float) -> None:
        self._bus = bus
        self._make = make
        self._interval_s = interval_s
        self._due = asyncio.Event()

    def changed(self) -> None:
        self._due.set()

    async def send(self) -> None:
        """Publish one beat now."""
        beat = self._make()
        await self._bus.publish(subjects.beat(beat.role, beat.worker), encode(beat))

    async def run(self) -> None:
        """Task body. A beat that cannot be sent is missed, no more."""
        while True:
            self._due.clear()
            if self._bus.connected:
                await self._send_or_log()
            await asyncio.sleep(MIN_GAP_S)
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _send_or_log(self) -> None:
        try:
            await self.send()
        except BatonError as error:
            logger.warning("beat not sent: %s", error)
