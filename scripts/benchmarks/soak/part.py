"""One process of the fleet, which is started again whenever it ends. Knows signals, not what the process is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.local.child import Child, OnLine
from shared.runtime.tasks import Tasks

PEAK_KEY = "VmHWM:"


class Part:
    """`restart_s` is the pause before a start that follows an end. `unasked_ends` are those nobody asked for.

    `changed_s` is when it was last started, broken or mended: what was heard of it before says nothing any more.
    `broken_s` is when it was last broken, `killed_s` when it was killed.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        environ: Mapping[str, str],
        on_line: OnLine,
        tasks: Tasks,
        restart_s: float,
    ) -> None:
        self.name = name
        self.changed_s = self.broken_s = self.killed_s = 0.0
        self.frozen = False
        self.peak_rss_bytes = 0
        self.unasked_ends: list[str] = []
        self._command = command
        self._environ = environ
        self._on_line = on_line
        self._tasks = tasks
        self._restart_s = restart_s
        self._child: Child | None = None
        self._asked: set[int] = set()
        self._stopping = asyncio.Event()

    @property
    def stop_asked(self) -> bool:
        """Whether it was sent SIGTERM and has not ended since."""
        return self.runs and 0 in self._asked

    @property
    def runs(self) -> bool:
        return self._child is not None and self._child.exit_code is None

    async def run(self) -> None:
        """Task body: until `stop`."""
        while not self._stopping.is_set():
            self._asked.clear()
            self.changed_s = time.monotonic()
            self._child = await Child.spawn(
                self.name, self._command(), environ=self._environ, on_line=self._on_line, tasks=self._tasks
            )
            self._ended(await self._child.wait())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._restart_s):
                    await self._stopping.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it `number`, if it runs."""
        if self._child is None or not self.runs:
            return
        self.changed_s = time.monotonic()
        self.frozen = number is signal.SIGSTOP
        if number is not signal.SIGCONT:
            self.broken_s = self.changed_s
        if number is signal.SIGKILL:
            self.killed_s = self.changed_s
            self._asked.add(-number)
        if number is signal.SIGTERM:
            self._asked.add(0)
        os.kill(self._child.pid, number)

    def touch(self) -> None:
        """Its connections were broken, or mended."""
        self.changed_s = time.monotonic()

    async def stop(self, timeout_s: float) -> None:
        """End it for good, and kill it when it has not ended within `timeout_s`. Idempotent."""
        self._stopping.set()
        if self._child is None or not self.runs:
            return
        self.signal(signal.SIGCONT)
        self._asked |= {0, -signal.SIGTERM}
        await self._child.stop(timeout_s)

    def measure(self) -> None:
        """Take note of its memory; to be called at an interval."""
        if self._child is None or not self.runs:
            return
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._child.pid}/status").read_text().splitlines():
                if line.startswith(PEAK_KEY):
                    self.peak_rss_bytes = max(self.peak_rss_bytes, int(line.split()[1]) << 10)

    def _ended(self, code: int) -> None:
        self.frozen = False
        self.changed_s = time.monotonic()
        if code not in self._asked:
            self.unasked_ends.append(f"{self.name} ended with {code}")
