"""The engine's thread: one call at a time, off the loop, and a cancelled caller waits for its call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from shared.runtime.engine_thread import EngineThread
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(10)


@pytest.fixture
def thread() -> Iterator[EngineThread]:
    engine_thread = EngineThread("engine")
    yield engine_thread
    engine_thread.close()


class SlowCall:
    """Runs until `finish` is set, then raises `error` or returns."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.began = threading.Event()
        self.finish = threading.Event()
        self.ended = False

    def __call__(self) -> str:
        self.began.set()
        assert self.finish.wait(5)
        self.ended = True
        if self._error is not None:
            raise self._error
        return "done"


async def began(call: SlowCall) -> None:
    assert await asyncio.to_thread(call.began.wait, 5)


async def test_it_runs_beside_the_loop_on_one_thread(thread: EngineThread) -> None:
    names = [await thread.call(lambda: threading.current_thread().name) for _ in range(3)]
    assert len(set(names)) == 1
    assert names[0].startswith("engine")


async def test_results_arguments_and_errors_pass(thread: EngineThread) -> None:
    assert await thread.call(lambda first, second: (first, second), 1, second=2) == (1, 2)
    with pytest.raises(ZeroDivisionError):
        await thread.call(lambda: 1 // 0)


async def test_calls_run_one_after_the_other_in_order(thread: EngineThread) -> None:
    order: list[int] = []
    await asyncio.gather(*(thread.call(order.append, number) for number in range(20)))
    assert order == list(range(20))


async def test_the_loop_goes_on_while_a_call_runs(thread: EngineThread) -> None:
    call = SlowCall()
    async with Tasks("test") as tasks:
        running = tasks.start(thread.call(call), name="call")
        await began(call)
        assert not running.done()
        call.finish.set()
        assert await running == "done"


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancelled_caller_waits_for_the_end_of_its_call(thread: EngineThread, cancels: int) -> None:
    """What the call writes to must not be freed while it runs."""
    call = SlowCall()
    async with Tasks("test") as tasks:
        running = tasks.start(thread.call(call), name="call")
        await began(call)
        for _ in range(cancels):
            running.cancel()
            await asyncio.wait({running}, timeout=0.02)
            assert not running.done()
        call.finish.set()
        await asyncio.wait({running})
        assert call.ended
        assert running.cancelled()


async def test_an_error_after_the_caller_was_cancelled_is_its_end_and_no_more(thread: EngineThread) -> None:
    call = SlowCall(ZeroDivisionError())
    async with Tasks("test") as tasks:
        running = tasks.start(thread.call(call), name="call")
        await began(call)
        running.cancel()
        call.finish.set()
        await asyncio.wait({running})
        assert running.cancelled()
    assert await thread.call(lambda: "next") == "next"


async def test_close_waits_for_the_running_call() -> None:
    thread = EngineThread("engine")
    call = SlowCall()
    async with Tasks("test") as tasks:
        running = tasks.start(thread.call(call), name="call")
        await began(call)
        call.finish.set()
        await asyncio.to_thread(thread.close)
        assert call.ended
        assert await running == "done"
    with pytest.raises(RuntimeError):
        await thread.call(lambda: None)
