"""The chat's WebSocket: one generation at a time, with a new connection whenever the old one is gone.

Knows the messages of the WebSocket, not conversations. `Answerer` calls it.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import aiohttp
import msgspec

from shared.errors import BatonError, ErrorInfo, Unavailable, error_from
from shared.protocol.to_client import AnyEvent, Failed, Finished

OPEN_TIMEOUT_S = 5.0
HEARTBEAT_S = 20.0

_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class ConnectionLost(BatonError):
    """The gateway went away in the middle."""

    code = "connection_lost"


class GatewayConnection:
    """Use `start`, then `next` until the generation's last event; `stop` asks for an early end.

    `busy`: a generation was started whose last event has not come.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._names = (f"chat-{count}" for count in itertools.count())
        self._name = ""
        self.busy = False

    async def open(self) -> None:
        """Connect, unless connected. Raises Unavailable."""
        if self._socket is not None and not self._socket.closed:
            return
        await self.close()
        self._session = aiohttp.ClientSession()
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                self._socket = await self._session.ws_connect(self._url, heartbeat=HEARTBEAT_S)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            await self.close()
            raise Unavailable(f"no gateway answers at {self._url} ({error or 'no answer in time'})") from error

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._socket is not None:
            await self._socket.close()
        if self._session is not None:
            await self._session.close()
        self._socket = self._session = None
        self.busy = False

    async def start(self, params: dict[str, Any]) -> None:
        """Start a generation. Raises ConnectionLost."""
        self._name = next(self._names)
        await self._send({"type": "generate", "id": self._name} | params)
        self.busy = True

    async def stop(self) -> None:
        """Ask for the end of the generation; its last event still comes. Raises ConnectionLost."""
        await self._send({"type": "cancel", "id": self._name})

    async def next(self) -> AnyEvent:
        """The generation's next event. Raises ConnectionLost, and what a failed event says."""
        while True:
            event = await self._receive()
            if event is None or event.id != self._name:
                continue
            self.busy = not isinstance(event, Failed | Finished)
            if isinstance(event, Failed):
                raise _error(event)
            return event

    async def _send(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            raise ConnectionLost("not connected")
        try:
            await self._socket.send_json(message)
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost("the connection to the gateway was lost") from error

    async def _receive(self) -> AnyEvent | None:
        if self._socket is None:
            raise ConnectionLost("not connected")
        frame = await self._socket.receive()
        if frame.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionLost(f"the gateway closed the connection (code {self._socket.close_code})")
        try:
            return _DECODER.decode(frame.data)
        except msgspec.ValidationError:
            return None  # an event of a newer gateway


def _error(event: Failed) -> BatonError:
    param = None if isinstance(event.param, msgspec.UnsetType) else event.param
    retry_after_ms = None if isinstance(event.retry_after_ms, msgspec.UnsetType) else event.retry_after_ms
    return error_from(ErrorInfo(code=event.code, message=event.message, param=param, retry_after_ms=retry_after_ms))
