"""Messages posted by plain objects and listeners, published in order by one task."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from shared.errors import BatonError
from shared.protocol.wire import Message, encode

logger = logging.getLogger(__name__)


class Publisher(Protocol):
    """`Bus` or `DataPlane`."""

    async def publish(self, subject: str, data: bytes) -> None: ...


async def _always() -> None:
    return


class Outbox:
    """`post` never waits; `run` is the body of the one task that publishes. `may_speak` is waited for before each."""

    def __init__(self, bus: Publisher, may_speak: Callable[[], Awaitable[None]] = _always) -> None:
        self._bus = bus
        self._may_speak = may_speak
        self._waiting: deque[tuple[str, Message]] = deque()
        self._posted = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def post(self, subject: str, message: Message) -> None:
        self._waiting.append((subject, message))
        self._posted.set()
        self._empty.clear()

    def __iter__(self) -> Iterator[tuple[str, Message]]:
        """What waits, each with its subject."""
        return iter(self._waiting)

    def sift(self, keep: Callable[[Message], Message | None]) -> None:
        """Replace each message that waits by what `keep` makes of it; None: it is not sent."""
        kept = [(subject, keep(message)) for subject, message in self._waiting]
        self._waiting = deque((subject, message) for subject, message in kept if message is not None)
        if not self._waiting:
            self._empty.set()

    async def run(self) -> None:
        """Publish what is posted. A message that cannot be sent is logged and dropped: its reader has a deadline."""
        while True:
            await self._posted.wait()
            await self._may_speak()
            while self._waiting:
                await self._publish(*self._waiting.popleft())
                await self._may_speak()
            self._posted.clear()
            self._empty.set()

    async def _publish(self, subject: str, message: Message) -> None:
        try:
            await self._bus.publish(subject, encode(message))
        except BatonError as error:
            logger.warning("could not publish on %s: %s", subject, error)

    async def drain(self) -> None:
        """Wait until all that was posted has been handed to the connection."""
        await self._empty.wait()
