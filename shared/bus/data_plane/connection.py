"""The connection for bulk: publish from several buffers, listen, flush, and reconnect for ever.

What `shared.bus.connection.Bus` is for control messages, with the same settings, and with these differences: payloads
are not copied on their way to and from the socket, a full socket holds the publisher back, listeners are called as
bytes arrive, so that no message waits in a queue of ours, and there are no headers, replies and requests.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from shared.bus.connection import Spawn
from shared.bus.data_plane import operations
from shared.bus.data_plane.link import Link
from shared.bus.data_plane.stream import Stream
from shared.bus.settings import BusSettings
from shared.errors import PayloadTooLarge, Unavailable
from shared.protocol.wire import Message, encode

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0
TURN_BYTES = 64 << 10

Listener = Callable[[str, memoryview], None]


class Listening:
    """A subscription. Whoever asked for it closes it."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close

    async def close(self) -> None:
        """Stop listening: the listener is not called any more. Idempotent."""
        self._close()


class DataPlane:
    """A NATS connection for bulk. Build it with `DataPlane.connect`, end it with `close`."""

    def __init__(
        self, settings: BusSettings, name: str, on_reconnect: Callable[[], None], on_loss: Callable[[str], None]
    ) -> None:
        self._name = name
        self._on_reconnect = on_reconnect
        self._on_loss = on_loss
        self._listeners: dict[int, tuple[str, Listener]] = {}
        self._sids = itertools.count(1)
        self._streams = 0
        self._link = Link(settings, name, on_message=self._hear, on_stream=self._subscribe_all, on_loss=self._lose)

    @classmethod
    async def connect(
        cls,
        settings: BusSettings,
        *,
        name: str,
        spawn: Spawn,
        on_reconnect: Callable[[], None] = lambda: None,
        on_loss: Callable[[str], None] = lambda _reason: None,
    ) -> DataPlane:
        """Connect, waiting for a server as long as it takes. `on_loss` is told when messages may have been lost.

        Raises ConfigError for a url that is none.
        """
        plane = cls(settings, name, on_reconnect, on_loss)
        spawn(plane._link.run(), name="data plane")
        try:
            await plane._link.reached(None)
        except BaseException:
            plane._link.stop()
            raise
        return plane

    @property
    def max_payload(self) -> int:
        """The server's limit on one message, in bytes."""
        return self._link.max_payload

    @property
    def connected(self) -> bool:
        return self._link.stream is not None

    @property
    def subscriptions(self) -> int:
        """How many are open."""
        return len(self._listeners)

    async def publish(self, subject: str, data: bytes) -> None:
        """`publish_parts` of one part."""
        await self.publish_parts(subject, data)

    async def send(self, subject: str, message: Message) -> None:
        """`publish` of one message."""
        await self.publish_parts(subject, encode(message))

    async def publish_parts(self, subject: str, *parts: bytes | memoryview) -> None:
        """One message, whose payload is `parts` one after the other; memoryviews are of bytes.

        Waits while the socket is full, and for a new connection while there is none. The memory of `parts` may not
        change after; it may be let go. Raises PayloadTooLarge before anything is sent, and Unavailable when no
        connection came back in time.
        """
        size_bytes = sum(map(len, parts))
        if size_bytes > self.max_payload:
            raise PayloadTooLarge(f"message of {size_bytes} bytes exceeds the NATS limit of {self.max_payload} bytes")
        line = operations.publish_line(subject, size_bytes)
        stream = await self._link.writable()
        stream.write(line, *parts, operations.CRLF)
        if size_bytes >= TURN_BYTES:
            # A socket that takes everything at once would let nobody else run between the chunks of a cache.
            await asyncio.sleep(0)

    async def listen(self, subject: str, listener: Listener) -> Listening:
        """Call `listener(subject, data)` for each message, in order, as it arrives.

        `data` is valid until the listener returns. The listener must not block and must not raise. Raises Unavailable
        once closed.
        """
        if self._link.stopping:
            raise Unavailable("NATS: the connection is closed")
        sid = next(self._sids)
        line = operations.subscribe(subject, sid)
        self._listeners[sid] = (subject, listener)
        if self._link.stream is not None:
            self._link.stream.write(line)
        return Listening(lambda: self._forget(sid))

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until the server has read all subscriptions and messages until now. Raises Unavailable."""
        if self._link.stream is None:
            raise Unavailable("NATS: not connected")
        try:
            async with asyncio.timeout(timeout_s):
                await self._link.stream.ping()
        except TimeoutError as error:
            raise Unavailable(f"NATS: no answer within {timeout_s:.0f} s") from error

    def redial(self, reason: str) -> None:
        """Give this connection up and make another, with any of the servers. Does nothing while there is none."""
        if self._link.stream is not None:
            self._link.stream.fail(reason)

    async def close(self) -> None:
        """Send what is pending, if the server still listens, and disconnect. Idempotent."""
        try:
            if self.connected:
                await self.flush(CLOSE_TIMEOUT_S)
        except Unavailable as error:
            logger.debug("NATS (%s) at close: %s", self._name, error)
        self._link.stop()
        await self._link.ended()

    def _hear(self, sid: int, subject: str, data: memoryview) -> None:
        heard = self._listeners.get(sid)
        if heard is None:
            return
        try:
            heard[1](subject, data)
        except Exception:
            logger.exception("NATS (%s): a listener on %s failed", self._name, subject)

    def _subscribe_all(self, stream: Stream) -> None:
        for sid, (subject, _) in self._listeners.items():
            stream.write(operations.subscribe(subject, sid))
        self._streams += 1
        if self._streams > 1:
            logger.info("NATS (%s): connected again", self._name)
            self._on_reconnect()

    def _lose(self, reason: str) -> None:
        logger.warning("NATS (%s): disconnected: %s", self._name, reason)
        self._on_loss("disconnected")

    def _forget(self, sid: int) -> None:
        if self._listeners.pop(sid, None) is not None and self._link.stream is not None:
            self._link.stream.write(operations.unsubscribe(sid))
