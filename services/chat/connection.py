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
from shared.protocol.to_client import AnyEvent, Delta, Failed, Finished, Started

OPEN_TIMEOUT_S = 5.0
HEARTBEAT_S = 20.0

_DECODER: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


class ConnectionLost(BatonError):
    """The gateway went away in the middle."""

    code = "connection_lost"


class GatewayConnection:
    """Use `start`, then `next` until the generation's last event; `stop` asks for an early end.

    `busy`: a generation was started whose last event has not come. It can be resumed once its session is known.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._names = (f"chat-{count}" for count in itertools.count())
        self._name = ""
        self._session_id = ""
        self._tokens = 0
        self._resumes = False
        self.busy = False

    @property
    def resumable(self) -> bool:
        """Whether there is a generation to go on with."""
        return bool(self._session_id)

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
        self.forget()
        self._resumes = bool(params.get("resumable"))
        await self._begin({"type": "generate", **params})

    def forget(self) -> None:
        """What was lost is not gone on with."""
        self._session_id, self._tokens = "", 0

    async def resume(self) -> None:
        """Go on with the generation of a lost connection, after what has come of it. Raises ConnectionLost."""
        await self._begin({"type": "resume", "session": self._session_id, "after": self._tokens})

    async def _begin(self, message: dict[str, Any]) -> None:
        self._name = next(self._names)
        await self._send({"id": self._name} | message)
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
            self._note(event)
            if isinstance(event, Failed):
                raise _error(event)
            return event

    def _note(self, event: AnyEvent) -> None:
        match event:
            case Started(session=str(session)) if self._resumes:
                self._session_id = session
            case Delta():
                self._tokens = event.index + len(event.token_ids)
            case Failed(retry_after_ms=int()) if self._tokens:
                pass  # the gateway lets go of the session: the rest is to be had elsewhere
            case Finished() | Failed():
                self._session_id = ""

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
