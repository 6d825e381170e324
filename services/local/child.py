"""One supervised child process: its output line by line, its end, its orderly stop.

The kernel kills it when this process dies. It has a session of its own, so that Ctrl-C in a terminal reaches only the
supervisor. Knows nothing of what the child is.
"""

from __future__ import annotations

import asyncio
import collections
import signal
from collections.abc import Callable, Mapping, Sequence

from shared.runtime.process import die_with_parent
from shared.runtime.tasks import Tasks

TAIL_LINES = 20
LINE_LIMIT_BYTES = 1 << 20

OnLine = Callable[[str], None]


class Child:
    """Build with `spawn`. `on_line` hears each line of stdout and stderr."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, on_line: OnLine) -> None:
        self.name = name
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._process = process
        self._on_line = on_line
        self._read_all = asyncio.Event()

    @classmethod
    async def spawn(
        cls, name: str, command: Sequence[str], *, environ: Mapping[str, str], on_line: OnLine, tasks: Tasks
    ) -> Child:
        """Start `command`; its output is read by a task of `tasks`."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
            start_new_session=True,
            preexec_fn=die_with_parent(),
            limit=LINE_LIMIT_BYTES,
        )
        child = cls(name, process, on_line)
        tasks.start(child._read(), name=f"output of {name}")
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Its exit code, once it has ended and all its output was heard."""
        code = await self._process.wait()
        await self._read_all.wait()
        return code

    def terminate(self) -> None:
        """Ask it to drain and stop."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)

    async def stop(self, timeout_s: float) -> int:
        """Ask it to stop, and kill it when it has not within `timeout_s`."""
        self.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
        return await self.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while raw := await _line(self._process.stdout):
                line = raw.decode(errors="replace").rstrip("\n")
                self.tail.append(line)
                self._on_line(line)
        finally:
            self._read_all.set()


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, b"" at the end. One beyond the limit is named instead of shown."""
    try:
        return await stream.readline()
    except ValueError:
        return f"(a line of more than {LINE_LIMIT_BYTES} bytes)\n".encode()
