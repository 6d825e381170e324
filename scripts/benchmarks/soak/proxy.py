"""A TCP proxy between one worker and NATS, which can keep bytes back, or break connections and refuse new ones."""

from __future__ import annotations

import asyncio
import contextlib

from shared.runtime.tasks import Tasks

READ_BYTES = 1 << 18


class CuttingProxy:
    """Listens on a free port of loopback once started; forwards to `port` there."""

    def __init__(self, port: int, tasks: Tasks) -> None:
        self._target_port = port
        self._tasks = tasks
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Keep what comes from both sides back, until `heal`."""
        self._flows.clear()

    def cut(self) -> None:
        """Break all connections, and every new one, until `heal`."""
        self._refuses = True
        self._abort_all()

    def heal(self) -> None:
        self._refuses = False
        self._flows.set()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._abort_all()

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.start(self._serve(reader, writer), name="proxied connection")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._refuses:
                return
            with contextlib.suppress(OSError):
                await self._flows.wait()
                there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
                self._writers.add(back)
                try:
                    answers = self._tasks.start(self._pump(there, writer), name="proxied answers")
                    await self._pump(reader, back)
                    await answers
                finally:
                    self._drop(back)
        finally:
            self._drop(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until either side ends; then both have ended."""
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
