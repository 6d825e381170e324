"""A NATS server that does what a test says, for what a real one does too rarely."""

from __future__ import annotations

import asyncio

INFO = b'INFO {"server_id":"scripted","version":"2.10.0","max_payload":1048576,"proto":1,"headers":true}\r\n'


class ScriptedServer:
    """`commands` are the lines read from all connections. `end` sends an error, then closes the connection.

    While `deaf`, nothing is read after the next command, as from a peer whose socket is full.
    """

    def __init__(self) -> None:
        self.commands: list[bytes] = []
        self.hears = asyncio.Event()
        self.hears.set()
        self._heard = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=1 << 22)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hears.set()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def has_heard(self, operation: bytes, count: int) -> None:
        """Wait until so many commands of this kind were read."""
        while sum(command.startswith(operation) for command in self.commands) < count:
            self._heard.clear()
            await self._heard.wait()

    async def say(self, data: bytes) -> None:
        for writer in self._writers:
            writer.write(data)
            await writer.drain()

    async def end(self, error: bytes) -> None:
        for writer in self._writers:
            writer.write(b"-ERR '%b'\r\n" % error)
            await writer.drain()
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        writer.write(INFO)
        while line := await reader.readline():
            self.commands.append(line.strip())
            self._heard.set()
            if line.startswith(b"PUB"):
                await reader.readexactly(int(line.split()[-1]) + 2)
            elif line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            await self.hears.wait()
