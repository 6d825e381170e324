"""GET /v1/stream: accepts WebSockets and owns them until they end.

Knows HTTP and who may connect, not what is said on a socket. The gateway's composition registers it on the app.
"""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from services.gateway.generation import Generator
from services.gateway.openai.request_id import request_id_of
from services.gateway.requests import RequestBuilder
from services.gateway.websocket.multiplexer import Multiplexer
from services.gateway.websocket.outbox import Outbox
from services.gateway.websocket.settings import CloseCode, SocketSettings
from services.gateway.websocket.socket import Socket
from shared.errors import Draining, InvalidRequest, Overloaded
from shared.runtime.tasks import Tasks

PATH = "/v1/stream"


class WebSocketDoor:
    """The route and the sockets that came through it."""

    def __init__(self, generator: Generator, builder: RequestBuilder, settings: SocketSettings | None = None) -> None:
        self._generator = generator
        self._builder = builder
        self._settings = settings or SocketSettings()
        self._sockets: dict[Socket, Tasks] = {}
        self._endings = Tasks("websocket door")
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._draining = False

    def __len__(self) -> int:
        """Open sockets."""
        return len(self._sockets)

    def register(self, app: web.Application) -> None:
        """Add the route to `app`."""
        app.router.add_get(PATH, self._handle)

    async def drain(self) -> None:
        """Refuse new sockets and generations; wait until those that run have ended and their sockets are closed."""
        self._draining = True
        for open_socket, tasks in self._sockets.items():
            open_socket.drain(tasks)
        await self._emptied.wait()

    async def close(self) -> None:
        """Close all sockets now, which cancels their generations."""
        self._draining = True
        for open_socket in self._sockets:
            self._endings.start(open_socket.close(CloseCode.GOING_AWAY), name="close")
        await self._emptied.wait()
        await self._endings.drain()

    async def _handle(self, request: web.Request) -> web.WebSocketResponse:
        self._check(request)
        connection = web.WebSocketResponse(
            heartbeat=self._settings.heartbeat_s,
            max_msg_size=self._settings.frame_limit_bytes,
            timeout=self._settings.close_timeout_s,
            compress=False,
            writer_limit=0,
        )
        if not connection.can_prepare(request).ok:
            raise InvalidRequest(f"{PATH} speaks WebSocket only")
        transport = self._bounded(request)
        await connection.prepare(request)
        await self._serve(connection, transport, request_id_of(request))
        return connection

    async def _serve(self, connection: web.WebSocketResponse, transport: asyncio.Transport, request_id: str) -> None:
        settings = self._settings
        outbox = Outbox(pending_limit_bytes=settings.pending_limit_bytes, notice_limit=settings.notice_limit)
        tasks = Tasks(f"socket {request_id}")
        multiplexer = Multiplexer(
            self._generator,
            self._builder,
            outbox,
            tasks,
            generation_limit=settings.generation_limit,
            request_id=request_id,
        )
        accepted = Socket(connection, transport, outbox, multiplexer, settings)
        self._sockets[accepted] = tasks
        self._emptied.clear()
        try:
            await accepted.run(tasks)
        finally:
            # In a task of the door's own: the server may cancel this handler any moment, and again.
            self._endings.start(self._end(accepted, tasks), name="end of a socket")

    async def _end(self, ended: Socket, tasks: Tasks) -> None:
        await tasks.close()
        del self._sockets[ended]
        if not self._sockets:
            self._emptied.set()

    def _check(self, request: web.Request) -> None:
        if self._draining:
            raise Draining("this gateway is shutting down")
        if len(self._sockets) >= self._settings.socket_limit:
            raise Overloaded(f"{self._settings.socket_limit} sockets are open", retry_after_ms=1000)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or {origin, "*"} & set(self._settings.allowed_origins):
            return
        if urlsplit(origin).netloc != request.host:
            raise web.HTTPForbidden(text=f"pages of {origin} may not connect here")

    def _bounded(self, request: web.Request) -> asyncio.Transport:
        """The connection, with buffers small enough that a slow reader's events wait, and merge, in its outbox."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        size_bytes = self._settings.send_buffer_bytes
        transport.set_write_buffer_limits(high=size_bytes // 4)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size_bytes)
        return transport
