"""One connection to one server, from its first byte to its loss.

Glue between the event loop and `Reader`: bytes are received where the reader wants them, parts are written without
being joined, a full socket holds the writers back, unanswered pings end the connection. `dial` makes it,
`connection` uses it until `lost` says why it ended.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

from shared.bus.data_plane import operations
from shared.bus.data_plane.reader import Reader
from shared.bus.data_plane.server_info import ServerInfo, read_info
from shared.bus.data_plane.servers import Address
from shared.errors import ProtocolError, Unavailable

logger = logging.getLogger(__name__)

OUTSTANDING_PINGS = 2
# Less than a chunk: what the socket does not take at once holds the next writer back.
WRITE_BUFFER_BYTES = 64 << 10
_PERMISSIONS = "permissions violation"


OnMessage = Callable[[int, str, memoryview], None]


class Owner(Protocol):
    """Who is told what happens to a stream. None of these may block or raise."""

    @property
    def on_message(self) -> OnMessage:
        """Called with sid, subject and data; `data` is valid until it returns."""

    def on_info(self, stream: Stream, info: ServerInfo) -> None:
        """The server has introduced itself, or something about it has changed."""

    def on_lost(self, stream: Stream) -> None:
        """`stream.lost` is done."""


class Stream(asyncio.BufferedProtocol):
    """An `asyncio` protocol, and the `Sink` of its own reader. `lost` becomes the reason for which it ended."""

    def __init__(self, name: str, address: Address, owner: Owner) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        self.lost: asyncio.Future[str] = loop.create_future()
        self._name = name
        self._owner = owner
        self._reader = Reader(self)
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.Future[ServerInfo] = loop.create_future()
        self._pongs: collections.deque[asyncio.Future[None] | None] = collections.deque()
        self._writable = asyncio.Event()
        self._writable.set()
        self._unanswered_pings = 0
        self._keeping_alive: asyncio.TimerHandle | None = None
        self._failure = ""

    async def greeting(self) -> ServerInfo:
        """The server's first INFO. Raises Unavailable when the connection ends before."""
        return await self._greeting

    def use(self, transport: asyncio.Transport) -> None:
        """Write to `transport` from now on: TLS has been put under this protocol."""
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def write(self, *parts: bytes | memoryview) -> None:
        """Send `parts` one after the other. Their memory must stay as it is until they are sent.

        Wait for `writable` before large parts. Does nothing once the connection is lost.
        """
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(parts)
            if self._transport.get_write_buffer_size() > WRITE_BUFFER_BYTES and self._writable.is_set():
                # In Python 3.12 before 3.12.9 and 3.13 before 3.13.2, asyncio's own transport overlooks its limit.
                self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    async def writable(self) -> None:
        """Wait until the socket takes more, or is lost."""
        while not self._writable.is_set():
            await self._writable.wait()

    async def ping(self) -> None:
        """Return when the server has read all that was written until now. Raises Unavailable."""
        if self.lost.done():
            raise Unavailable(f"NATS: {self.lost.result()}")
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self.write(operations.PING)
        await pong

    def keep_alive(self, interval_s: float) -> None:
        """Ping every `interval_s` from now on; unanswered pings end the connection."""
        self._keeping_alive = asyncio.get_running_loop().call_later(interval_s, self._tick, interval_s)

    def _tick(self, interval_s: float) -> None:
        self._unanswered_pings += 1
        if self._unanswered_pings > OUTSTANDING_PINGS:
            self.fail(f"{OUTSTANDING_PINGS} pings went unanswered")
            return
        self._pongs.append(None)
        self.write(operations.PING)
        self.keep_alive(interval_s)

    def fail(self, reason: str) -> None:
        """End the connection at once, for `reason`; what was not sent is lost."""
        self._failure = self._failure or reason
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.use(cast(asyncio.Transport, transport))

    def get_buffer(self, _sizehint: int) -> memoryview:
        # A transport under TLS may go on reading for a moment after it was aborted.
        return memoryview(bytearray(operations.CRLF)) if self._failure else self._reader.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        if self._failure:
            return
        try:
            self._reader.received(nbytes)
        except ProtocolError as error:
            self.fail(str(error))
        except Exception as error:
            logger.exception("NATS (%s): reading failed", self._name)
            self.fail(f"{type(error).__name__}: {error}")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        reason = self._failure or (str(exc) or type(exc).__name__ if exc is not None else "the server hung up")
        if self._keeping_alive is not None:
            self._keeping_alive.cancel()
        self.lost.set_result(reason)
        self._owner.on_lost(self)
        self._writable.set()
        for waiter in (self._greeting, *self._pongs):
            _refuse(waiter, reason)
        self._pongs.clear()

    # What the reader calls.

    def on_message(self, sid: int, subject: str, data: memoryview) -> None:
        self._owner.on_message(sid, subject, data)

    def on_info(self, data: bytes) -> None:
        info = read_info(data)
        self._reader.payload_limit_bytes = info.max_payload
        self._owner.on_info(self, info)
        if not self._greeting.done():
            self._greeting.set_result(info)

    def on_ping(self) -> None:
        self.write(operations.PONG)

    def on_pong(self) -> None:
        self._unanswered_pings = 0
        if self._pongs:
            pong = self._pongs.popleft()
            if pong is not None and not pong.done():
                pong.set_result(None)

    def on_error(self, reason: str) -> None:
        """The server ends the connection after all errors but one."""
        logger.warning("NATS (%s): %s", self._name, reason)
        if not reason.lower().startswith(_PERMISSIONS):
            self.fail(reason)


def _refuse(waiter: asyncio.Future[Any] | None, reason: str) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_exception(Unavailable(f"NATS: {reason}"))
        waiter.exception()
