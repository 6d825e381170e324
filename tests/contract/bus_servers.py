"""A nats-server process that can be stopped and started again on its port."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.local import nats_server


class RestartableServer:
    """`start` may follow `stop`. The port is chosen at the first start and kept.

    `more` is added to its configuration.
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        self._folder = folder
        self._more = more
        self._port = -1
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        command = self.configure(self._port)
        self._process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert self._process.stderr is not None
        start_up = nats_server.StartUp()
        while not start_up.ready:
            line = await self._process.stderr.readline()
            assert line, "nats-server did not start"
            start_up.read(line.decode())
        assert start_up.port is not None
        self._port = start_up.port
        self._reading = asyncio.create_task(self._read_on(self._process.stderr))

    def configure(self, port: int) -> list[str]:
        """Write the configuration; returns the command."""
        command = nats_server.command(self._folder, port)
        with (self._folder / "nats-server.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(self._more)
        return command

    async def stop(self) -> None:
        """Kill it. Idempotent."""
        if self._process is not None and self._reading is not None:
            self._process.kill()
            await self._process.wait()
            await self._reading
            self._process = None

    async def _read_on(self, stderr: asyncio.StreamReader) -> None:
        while await stderr.readline():
            pass
