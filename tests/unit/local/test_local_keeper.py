"""Keeping a real child process alive."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import psutil
import pytest

from services.local.keeper import Keeper
from shared.errors import WorkerFailed
from shared.runtime.tasks import Tasks

WAITS = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
FAILS = "import sys; print('first'); print('why', file=sys.stderr); sys.exit(3)"


class Probe:
    """A keeper with what it said, and a wait for lines of its child."""

    def __init__(self, tasks: Tasks, program: str) -> None:
        self.reports: list[str] = []
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.keeper = Keeper(
            "child",
            lambda: [sys.executable, "-c", program],
            environ=dict(os.environ),
            on_line=self.lines.put_nowait,
            report=self.reports.append,
            tasks=tasks,
        )


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks("test") as tasks:
        yield tasks


async def test_a_program_that_was_ready_starts_again_when_killed(tasks: Tasks) -> None:
    probe = Probe(tasks, WAITS)
    tasks.start(probe.keeper.run(), name="keeper")
    assert await probe.lines.get() == "up"
    probe.keeper.is_ready()
    first = probe.keeper.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert await probe.lines.get() == "up"
    assert probe.keeper.pid != first
    assert "was killed by signal 9" in probe.reports[0]
    await probe.keeper.stop(20)


async def test_a_program_that_never_was_ready_is_given_up_with_its_last_lines(tasks: Tasks) -> None:
    probe = Probe(tasks, FAILS)
    with pytest.raises(WorkerFailed) as caught:
        await probe.keeper.run()
    assert "exit code 3" in caught.value.message
    assert "  why" in caught.value.message


async def test_a_stopped_program_does_not_start_again(tasks: Tasks) -> None:
    probe = Probe(tasks, WAITS)
    running = tasks.start(probe.keeper.run(), name="keeper")
    await probe.lines.get()
    probe.keeper.is_ready()
    await probe.keeper.stop(20)
    await running
    assert probe.reports == []


async def test_a_program_that_does_not_stop_is_killed(tasks: Tasks) -> None:
    probe = Probe(tasks, DEAF)
    tasks.start(probe.keeper.run(), name="keeper")
    await probe.lines.get()
    pid = probe.keeper.pid
    assert pid is not None
    await probe.keeper.stop(0.05)
    assert not psutil.pid_exists(pid)


async def test_a_line_beyond_the_limit_does_not_end_the_reading(tasks: Tasks) -> None:
    probe = Probe(tasks, "print('x' * (3 << 20)); print('after', flush=True); import signal; signal.pause()")
    tasks.start(probe.keeper.run(), name="keeper")
    while await probe.lines.get() != "after":
        continue
    await probe.keeper.stop(20)


async def test_stop_cuts_the_pause_before_a_restart_short(tasks: Tasks) -> None:
    said = asyncio.Event()
    probe = Probe(tasks, WAITS)
    probe.keeper._report = lambda _text: said.set()
    probe.keeper._pause_s = 3600
    running = tasks.start(probe.keeper.run(), name="keeper")
    await probe.lines.get()
    probe.keeper.is_ready()
    assert probe.keeper.pid is not None
    os.kill(probe.keeper.pid, signal.SIGKILL)
    await said.wait()
    await probe.keeper.stop(20)
    await running
