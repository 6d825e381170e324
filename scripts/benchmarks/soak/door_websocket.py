"""A client of `/v1/stream`: a socket for each generation."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from benchmarks.soak.ends import RETRY_AFTER_S, Failed, Lost, Refused, Unanswered
from benchmarks.soak.events import take_event
from benchmarks.soak.record import Record
from benchmarks.soak.request import LoadRequest


class WebSocketDoor:
    """Use `ask`, any number at once."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, url: str, request: LoadRequest, record: Record) -> None:
        """Return when the stream has ended well or the client has left it. Raises Refused, Lost, Failed."""
        answered = False
        try:
            async with self._http.ws_connect(f"{url}/v1/stream") as socket:
                answered = True
                await socket.send_json({"id": "a", **_message(request, record)})
                await self._read(socket, request, record)
        except aiohttp.ClientConnectorError as error:
            raise Refused(f"no gateway: {error}", RETRY_AFTER_S) from error
        except aiohttp.WSServerHandshakeError as error:
            raise _refusal(error) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise (Lost if answered else Unanswered)(f"{type(error).__name__}: {error}") from error

    async def _read(self, socket: aiohttp.ClientWebSocketResponse, request: LoadRequest, record: Record) -> None:
        left = False
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                break
            if take_event(frame.json(), record, left=left, resumable=request.resumable):
                return
            if record.wants_to_leave and not left:
                if not request.polite:
                    return
                left = True
                await socket.send_json({"type": "cancel", "id": "a"})
            if request.pause_s:
                await asyncio.sleep(request.pause_s)
        raise Lost(f"the socket was closed with {socket.close_code}")


def _message(request: LoadRequest, record: Record) -> dict[str, Any]:
    if record.resumes:
        return {"type": "resume", "session": record.session, "after": len(record.tokens)}
    return {"type": "generate", "resumable": request.resumable, **request.question.body}


def _refusal(error: aiohttp.WSServerHandshakeError) -> Refused | Failed:
    after = error.headers.get("Retry-After") if error.headers is not None else None
    what = f"the socket was refused with {error.status}"
    return Failed(what) if after is None else Refused(what, float(after))
