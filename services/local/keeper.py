"""Keeps one program running: starts it, reports its end with its last lines, starts it again after growing pauses.

A program that ends before it was ever ready is not started again: its settings are wrong. `supervisor` has one keeper
per process and tells it when its program is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence

from services.local.child import Child, OnLine
from shared.errors import WorkerFailed
from shared.runtime.tasks import Tasks

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0


class Keeper:
    """`command` is asked for at each start; `report` gets sentences for a person."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        *,
        environ: Mapping[str, str],
        on_line: OnLine,
        report: Callable[[str], None],
        tasks: Tasks,
    ) -> None:
        self.name = name
        self._command = command
        self._environ = environ
        self._on_line = on_line
        self._report = report
        self._tasks = tasks
        self._child: Child | None = None
        self._ready = False
        self._stopping = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def is_ready(self) -> None:
        """The program serves: from now on it is started again when it ends."""
        self._ready = True

    async def run(self) -> None:
        """Until `stop`. Raises WorkerFailed when the program ends before it was ready."""
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started_s = clock()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if not self._ready:
                raise WorkerFailed(self._obituary(code))
            if clock() - started_s > STEADY_S:
                self._pause_s = FIRST_PAUSE_S
            self._report(f"{self._obituary(code)}\n{self.name} starts again in {self._pause_s:.1f} s")
            await self._pause()
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    async def stop(self, timeout_s: float) -> None:
        """Let it drain and end, and kill it when it has not within `timeout_s`. Idempotent."""
        self._stopping.set()
        if self._child is None or self._child.exit_code is not None:
            return
        code = await self._child.stop(timeout_s)
        if code not in (0, -signal.SIGTERM):
            self._report(self._obituary(code))

    async def _pause(self) -> None:
        """Cut short by `stop`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s):
                await self._stopping.wait()

    async def _run_once(self) -> int:
        self._child = await Child.spawn(
            self.name, self._command(), environ=self._environ, on_line=self._on_line, tasks=self._tasks
        )
        if self._stopping.is_set():
            self._child.terminate()
        return await self._child.wait()

    def _obituary(self, code: int) -> str:
        tail = self._child.tail if self._child is not None else ()
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        return "\n".join([f"{self.name} {how}; its last lines:", *(f"  {line}" for line in tail)])
