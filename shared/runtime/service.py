"""Runs a service as a process: start, ready, drain on a signal, stop, exit code.

Knows nothing of what the service does. The `baton` command calls `run` for each role.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import math
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn, Protocol

import uvloop

from shared.errors import BatonError
from shared.runtime.loop_lag import watch_loop_lag
from shared.runtime.sd_notify import Notifier
from shared.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 15.0
HAND_OVER_S = 2.0
WATCH_INTERVAL_S = 0.5
LOOP_STALL_S = 120.0
STUCK_EXIT_CODE = 70
STDERR = 2

OnFailure = Callable[[BaseException], None]


class Service(Protocol):
    """What `run` runs. Each method is called once, in this order; `stop` also after a failed or cancelled `start`.

    `hand_over` is called only where `drain` took too long.
    """

    async def start(self) -> None:
        """Return when ready for work. Raises BatonError when that cannot be."""

    async def drain(self) -> None:
        """Take no new work and return when the running work is done. Cancelled when that takes too long."""

    async def hand_over(self) -> None:
        """Leave what still runs to others, or tell its clients so; return when nothing is left."""

    async def stop(self) -> None:
        """Free everything, whatever state this is in. Idempotent."""

    def stuck(self) -> str:
        """Why it can make no progress any more; empty while it can. Asked twice a second, and must not wait."""


def run(
    make: Callable[[OnFailure], Service],
    *,
    name: str,
    drain_timeout_s: float = 60.0,
    notifier: Notifier | None = None,
) -> int:
    """Run a service to its end and return the exit code of the process.

    `make` builds the service inside the event loop. It gets the function to call when the service cannot go on, meant
    for `Tasks(on_failure=...)`. SIGTERM and SIGINT drain, and hand over what is not done in time, all within
    `drain_timeout_s`; a second one stops at once. Exit code 0: ended as asked, all work done or handed over; 1: else.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        process = _Process(name, drain_timeout_s, notifier or Notifier())
        code = runner.run(process.live(make))
        if not process.stopped:
            _end_now(code)  # what did not stop would keep the interpreter from ending
        return code


class _Process:
    """One life: `live` is called once."""

    def __init__(self, name: str, drain_timeout_s: float, notifier: Notifier) -> None:
        self._name = name
        self._drain_timeout_s = drain_timeout_s
        self._notifier = notifier
        self._tasks = Tasks(name, self._failed)
        self._failure: BaseException | None = None
        self._drain_asked = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self.stopped = True

    async def live(self, make: Callable[[OnFailure], Service]) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        try:
            service = make(self._failed)
        except BatonError as error:
            logger.error("%s cannot start: %s", self._name, error.message)
            return 1
        async with self._tasks:
            self._tasks.start(watch_loop_lag(), name="loop lag")
            self._tasks.start(self._watch(service), name="watchdog")
            drained = await self._serve(service)
            self.stopped = await self._phase("stop", service.stop(), timeout_s=STOP_TIMEOUT_S)
        logger.info("%s has stopped", self._name)
        return 0 if drained and self.stopped and self._failure is None else 1

    async def _serve(self, service: Service) -> bool:
        """Start, serve, drain. True when all work is done, or none was begun."""
        self._notifier.status("starting")
        if not await self._phase("start", service.start(), until=self._drain_asked):
            return self._failure is None
        self._notifier.ready()
        logger.info("%s is ready", self._name)
        await self._drain_asked.wait()
        self._notifier.stopping()
        if self._failure is not None:
            return False
        return await self._drain(service)

    async def _drain(self, service: Service) -> bool:
        """True when all work is done, or in other hands."""
        hand_over_s = min(HAND_OVER_S, self._drain_timeout_s / 2)
        drain_s = self._drain_timeout_s - hand_over_s
        logger.info("%s drains for at most %.0f s", self._name, drain_s)
        if await self._phase("drain", service.drain(), until=self._stop_asked, timeout_s=drain_s):
            return True
        if self._stop_asked.is_set():
            return False
        return await self._phase(
            "hand over", service.hand_over(), until=self._stop_asked, timeout_s=max(hand_over_s, HAND_OVER_S)
        )

    async def _phase(
        self,
        phase: str,
        work: Coroutine[Any, Any, None],
        *,
        until: asyncio.Event | None = None,
        timeout_s: float | None = None,
    ) -> bool:
        """Do `work`, but not beyond `until` or the time limit. True when it is done without an error."""
        task = self._tasks.start(self._guard(phase, work), name=phase)
        until = until or asyncio.Event()
        interrupt = self._tasks.start(until.wait(), name=f"{phase} interrupt")
        done, _ = await asyncio.wait({task, interrupt}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        interrupt.cancel()
        if task in done:
            return task.result()
        if not done:
            logger.warning("%s: %s took longer than %.0f s", self._name, phase, timeout_s)
        task.cancel()
        await asyncio.wait({task})
        return False

    async def _guard(self, phase: str, work: Coroutine[Any, Any, None]) -> bool:
        try:
            await work
        except BatonError as error:
            logger.error("%s cannot %s: %s", self._name, phase, error.message)
            self._end(error)
        except Exception as error:
            logger.exception("%s failed to %s", self._name, phase)
            self._end(error)
        else:
            return True
        return False

    async def _watch(self, service: Service) -> None:
        """End the process when the service is stuck, and let two others notice when not even this runs any more:
        the service manager, which hears nothing, and a thread of the interpreter's that needs none of its locks.
        """
        interval_s = min(WATCH_INTERVAL_S, (self._notifier.watchdog_s or math.inf) / 2)
        with _ended_unless_rearmed() as rearm:
            while True:
                reason = service.stuck()
                if reason:
                    logger.critical("%s ends, to be started anew: %s", self._name, reason)
                    _end_now(STUCK_EXIT_CODE)
                if self._notifier.watchdog_s:
                    self._notifier.alive()
                rearm()
                await asyncio.sleep(interval_s)

    def _failed(self, error: BaseException) -> None:
        logger.error("%s cannot go on: %s: %s", self._name, type(error).__name__, error)
        self._end(error)

    def _end(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self._drain_asked.set()
        self._stop_asked.set()

    def _signalled(self) -> None:
        if self._drain_asked.is_set():
            self._stop_asked.set()
        self._drain_asked.set()


@contextlib.contextmanager
def _ended_unless_rearmed() -> Iterator[Callable[[], None]]:
    """Call the result at least every `LOOP_STALL_S`, or the process prints the stacks of its threads and ends."""
    armed_s = -math.inf

    def rearm() -> None:
        nonlocal armed_s
        now_s = asyncio.get_running_loop().time()
        if now_s - armed_s > LOOP_STALL_S / 20:
            armed_s = now_s
            faulthandler.dump_traceback_later(LOOP_STALL_S, exit=True, file=STDERR)

    try:
        yield rearm
    finally:
        faulthandler.cancel_dump_traceback_later()


def _end_now(code: int) -> NoReturn:
    """Without waiting for threads: one of them may never return."""
    logging.shutdown()
    os._exit(code)
