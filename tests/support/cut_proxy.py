"""A TCP proxy in front of a nats-server that can be cut like a network: with a reset, or without a word."""

from __future__ import annotations

import asyncio
from typing import cast


class CutProxy:
    """Passes bytes on while whole. Build with `start`, end with `close`.

    `cut` resets all connections, and new ones; `swallow` takes everything, passes nothing on and says nothing, as
    behind a cable that was pulled; `heal` ends both.
    """

    def __init__(self, port: int) -> None:
        self.onward_port = port
        self.refuses = False
        self.swallows = False
        self.ends: set[_End] = set()
        self.dialling: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self.refuses = True
        self._reset_all()
        if self.dialling:
            await asyncio.wait(self.dialling)
        self._reset_all()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        self.refuses = True
        self._reset_all()

    def swallow(self) -> None:
        self.swallows = True

    def heal(self) -> None:
        """New connections pass. Those that were swallowed are dead: what they were sent is lost."""
        if self.swallows:
            self._reset_all()
        self.swallows = self.refuses = False

    def _reset_all(self) -> None:
        for end in list(self.ends):
            end.reset()


class _End(asyncio.Protocol):
    """One side of a connection; what it hears goes to `other`."""

    def __init__(self, proxy: CutProxy) -> None:
        self._proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._early = b""
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._proxy.ends.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.ends.discard(self)
        if self.other is not None:
            self.other.reset()

    def data_received(self, data: bytes) -> None:
        if self._proxy.swallows:
            return
        if self.other is None:
            self._early += data
        else:
            self.other.say(data)

    def join(self, other: _End) -> None:
        self.other, other.other = other, self
        other.say(self._early)

    def say(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def reset(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Client(_End):
    """The side that dialled: the other one is dialled for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._proxy.refuses:
            self.reset()
        elif not self._proxy.swallows:
            task = asyncio.create_task(self._dial())
            self._proxy.dialling.add(task)
            task.add_done_callback(self._proxy.dialling.discard)

    async def _dial(self) -> None:
        onward = _End(self._proxy)
        try:
            await asyncio.get_running_loop().create_connection(lambda: onward, "127.0.0.1", self._proxy.onward_port)
        except OSError:
            self.reset()
        else:
            self.join(onward)
