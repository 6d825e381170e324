"""A stream to any of the servers, replaced by another when it is lost, for as long as it is wanted.

Knows no subscription and no message: `connection` does, and says what to do with a new stream.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from shared.bus.data_plane.dial import dial
from shared.bus.data_plane.server_info import ServerInfo
from shared.bus.data_plane.servers import Servers
from shared.bus.data_plane.stream import OnMessage, Stream
from shared.bus.settings import BusSettings
from shared.errors import BatonError, Unavailable

logger = logging.getLogger(__name__)

RECONNECT_PATIENCE_S = 10.0


class Link:
    """`run` is the body of the one task that keeps it. A `stream.Owner`.

    `on_stream` is told of every stream before anyone may write to it; `on_loss` of every loss, with the reason.
    """

    def __init__(
        self,
        settings: BusSettings,
        name: str,
        *,
        on_message: OnMessage,
        on_stream: Callable[[Stream], None],
        on_loss: Callable[[str], None],
    ) -> None:
        """Raises ConfigError for a url that is none."""
        self.stream: Stream | None = None
        self.max_payload = 0
        self.stopping = False
        self.on_message = on_message
        self._settings = settings
        self._name = name
        self._on_stream = on_stream
        self._on_loss = on_loss
        self._servers = Servers(settings.servers)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Task body: one stream after the other until `stop`."""
        self._task = asyncio.current_task()
        try:
            while not self.stopping:
                stream = await self._reach()
                self._take(stream)
                self._on_loss(await asyncio.shield(stream.lost))
                await self._pause()
        finally:
            self.stopping = True
            await self._disconnect()

    async def writable(self) -> Stream:
        """A stream whose socket takes more. Waits for a new one while there is none.

        Raises Unavailable when none came in time, or none will come.
        """
        while True:
            stream = self.stream or await self.reached(RECONNECT_PATIENCE_S)
            await stream.writable()
            if stream is self.stream:
                return stream

    async def reached(self, timeout_s: float | None) -> Stream:
        """The stream, as soon as there is one. Raises Unavailable as `writable` does; None: waits without limit."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.stream is None:
                    if self.stopping:
                        raise Unavailable("NATS: the connection is closed")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise Unavailable(f"NATS: not connected for {timeout_s:.0f} s") from error
        return self.stream

    def stop(self) -> None:
        """Disconnect, and let `run` end. Idempotent."""
        self.stopping = True
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Return when `run` has ended."""
        await self._ended.wait()

    # What the stream calls, besides `on_message`.

    def on_info(self, stream: Stream, info: ServerInfo) -> None:
        self.max_payload = info.max_payload
        self._servers.learn(info.connect_urls or (), stream.address)

    def on_lost(self, stream: Stream) -> None:
        if self.stream is stream:
            self.stream = None

    def _take(self, stream: Stream) -> None:
        if stream.lost.done():
            return
        stream.keep_alive(self._settings.ping_interval_s)
        self.stream = stream
        self._on_stream(stream)
        self._changed.set()

    async def _disconnect(self) -> None:
        try:
            if (stream := self.stream) is not None:
                stream.fail("closed")
                await asyncio.shield(stream.lost)
        finally:
            self._ended.set()
            self._changed.set()

    async def _reach(self) -> Stream:
        """A stream to any server, however long that takes."""
        while True:
            address = self._servers.choose()
            try:
                return await dial(self._settings, self._name, address, self)
            except (BatonError, OSError, TimeoutError, UnicodeError) as error:
                logger.warning("NATS (%s): %s: %s", self._name, address, str(error) or type(error).__name__)
            await self._pause()

    async def _pause(self) -> None:
        """0.5 to 1.5 of the setting: a restarted server is not stormed by all at once."""
        await asyncio.sleep(self._settings.reconnect_wait_s * random.uniform(0.5, 1.5))
