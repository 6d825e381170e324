"""One WebSocket: a reader that feeds the multiplexer and a writer that empties the outbox.

Knows frames, timeouts and close codes, not what a generation is. The door makes one per connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from aiohttp import WSMessage, WSMsgType, web

from services.gateway.openai.body import parse_object
from services.gateway.sequence.events import failed
from services.gateway.websocket.multiplexer import Multiplexer
from services.gateway.websocket.outbox import Outbox
from services.gateway.websocket.settings import CloseCode, SocketSettings
from shared.errors import BatonError
from shared.protocol.from_client import readable_id, socket_message
from shared.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

_ENCODER = msgspec.json.Encoder()


class Socket:
    """`run` returns when the connection has ended; the owner then closes the tasks, which cancels all generations."""

    def __init__(
        self,
        connection: web.WebSocketResponse,
        transport: asyncio.Transport,
        outbox: Outbox,
        multiplexer: Multiplexer,
        settings: SocketSettings,
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._outbox = outbox
        self._multiplexer = multiplexer
        self._settings = settings
        self._closing = asyncio.Lock()

    async def run(self, tasks: Tasks) -> None:
        """Read until the client, the network or the writer ends it."""
        tasks.start(self._write(), name="writer")
        async for frame in self._connection:
            if frame.type is WSMsgType.ERROR:
                break
            refusal = self._receive(frame)
            if refusal is not None:
                await self.close(refusal)
        async with self._closing:  # who closes is still waiting for the client to agree
            return

    def drain(self, tasks: Tasks) -> None:
        """Take no new generation and close the socket once those that run have ended and been sent."""
        if not self._multiplexer.draining:
            self._multiplexer.draining = True
            tasks.start(self._close_when_empty(), name="drain")

    async def close(self, code: CloseCode) -> None:
        """Say why, and wait a little for the client to agree; one that does not read is cut."""
        try:
            async with self._closing, asyncio.timeout(self._settings.close_timeout_s):
                await self._connection.close(code=code, message=code.name.lower().encode())
        except TimeoutError:
            self._transport.abort()
        except asyncio.CancelledError:
            self._transport.abort()
            raise

    def _receive(self, frame: WSMessage) -> CloseCode | None:
        """Act on one frame; the code to close with if it is not to be forgiven."""
        if frame.type is not WSMsgType.TEXT:
            return CloseCode.UNSUPPORTED_DATA
        fields: dict[str, Any] = {}
        try:
            fields = parse_object(frame.data.encode())
            self._multiplexer.receive(socket_message(fields))
        except BatonError as error:
            name = readable_id(fields)
            self._outbox.notice(msgspec.structs.replace(failed(error), id=msgspec.UNSET if name is None else name))
        return CloseCode.FLOOD if self._outbox.flooded else None

    async def _write(self) -> None:
        try:
            while True:
                event = await self._outbox.next()
                async with asyncio.timeout(self._settings.stall_timeout_s):
                    await self._connection.send_frame(_ENCODER.encode(event), WSMsgType.TEXT)
                self._outbox.sent()
        except TimeoutError:
            logger.info("a WebSocket client read nothing for %s s: closed", self._settings.stall_timeout_s)
            await self.close(CloseCode.STALLED)
        except ConnectionError:
            self._transport.abort()

    async def _close_when_empty(self) -> None:
        await self._outbox.empty()
        await self.close(CloseCode.GOING_AWAY)
