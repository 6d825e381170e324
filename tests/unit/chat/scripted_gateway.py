"""A gateway's WebSocket that does what a test says, on a loopback port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

Message = dict[str, Any]


class Client:
    """One connected chat, as its gateway sees it."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket

    async def send(self, kind: str, name: str, **fields: object) -> None:
        await self._socket.send_json({"type": kind, "v": 1, "id": name} | fields)

    async def say(self, name: str, *texts: str) -> None:
        for text in texts:
            await self.send("delta", name, index=0, text=text, token_ids=[1])

    async def finish(self, name: str, reason: str = "stop") -> None:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        await self.send("finished", name, finish_reason=reason, usage=usage)

    async def hang_up(self) -> None:
        await self._socket.close(code=1001)


Script = Callable[[Client, Message], Awaitable[None]]


async def greet(client: Client, message: Message) -> None:
    """Answers every question with two pieces."""
    if message["type"] == "generate":
        await client.send("started", message["id"], session="s", model="tiny", prompt_tokens=1)
        await client.say(message["id"], "Hello ", "you")
        await client.finish(message["id"])


class ScriptedGateway:
    """Plays `script` for every message; remembers messages and counts connections."""

    def __init__(self) -> None:
        self.script: Script = greet
        self.received: list[Message] = []
        self.connections = 0
        self.url = ""

    @property
    def asked(self) -> list[Message]:
        return [message for message in self.received if message["type"] == "generate"]

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        async for frame in socket:
            message = frame.json()
            self.received.append(message)
            await self.script(Client(socket), message)
        return socket


@contextlib.asynccontextmanager
async def serve(gateway: ScriptedGateway) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/v1/stream", gateway.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    gateway.url = f"http://{host}:{port}"
    yield
    await runner.cleanup()
