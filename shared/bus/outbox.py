"""Messages posted by plain objects and listeners, published in order by one task."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from shared.errors import BatonError
from shared.protocol.wire import Message, encode

logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """`Bus` or `DataPlane`."""

    async def publish(self, subject: str, data: bytes) -> None: ...


class Outbox:
    """`post` never waits; `run` is the body of the one task that publishes."""

    def __init__(self, bus: Publisher) -> None:
        self._bus = bus
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def post(self, subject: str, message: Message) -> None:
        self._queue.put_nowait((subject, encode(message)))

    async def run(self) -> None:
        """Publish what is posted. A message that cannot be sent is logged and dropped: its reader has a deadline."""
        while True:
            subject, data = await self._queue.get()
            try:
                await self._bus.publish(subject, data)
            except BatonError as error:
                logger.warning("could not publish on %s: %s", subject, error)
            finally:
                self._queue.task_done()

    async def drain(self) -> None:
        """Wait until all that was posted has been handed to the connection."""
        await self._queue.join()
