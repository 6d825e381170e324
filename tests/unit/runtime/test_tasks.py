"""Owned tasks: nothing outlives its owner, no failure goes unheard."""

from __future__ import annotations

import asyncio
import logging

import pytest

from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(10)


async def for_ever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise KeyError("a defect")


async def test_a_task_that_ends_is_forgotten() -> None:
    async with Tasks("owner") as tasks:
        assert await tasks.start(asyncio.sleep(0, "result"), name="task") == "result"
        assert len(tasks) == 0


async def test_close_ends_what_runs_and_waits_for_its_clean_up() -> None:
    cleaned = []

    async def work() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    tasks = Tasks("owner")
    task = tasks.start(work(), name="task")
    await asyncio.sleep(0)
    await tasks.close()
    assert task.cancelled()
    assert cleaned == [True]
    assert len(tasks) == 0


async def test_close_is_idempotent() -> None:
    tasks = Tasks("owner")
    tasks.start(for_ever(), name="task")
    await asyncio.gather(tasks.close(), tasks.close())
    await tasks.close()
    assert len(tasks) == 0


async def test_a_task_that_never_began_is_closed_too() -> None:
    tasks = Tasks("owner")
    task = tasks.start(for_ever(), name="task")
    await tasks.close()
    assert task.cancelled()


async def test_a_task_may_close_its_owner() -> None:
    tasks = Tasks("owner")
    other = tasks.start(for_ever(), name="other")

    async def close() -> str:
        await tasks.close()
        return "closed"

    assert await tasks.start(close(), name="closer") == "closed"
    assert other.cancelled()


async def test_after_close_nothing_starts() -> None:
    """And a coroutine that is refused is closed: warnings are errors here."""
    tasks = Tasks("owner")
    await tasks.close()
    with pytest.raises(RuntimeError, match="owner is closed, cannot start late"):
        tasks.start(for_ever(), name="late")


async def test_what_a_task_starts_while_it_is_closed_is_refused() -> None:
    tasks = Tasks("owner")
    refused = []

    async def work() -> None:
        try:
            await for_ever()
        finally:
            try:
                tasks.start(for_ever(), name="heir")
            except RuntimeError as error:
                refused.append(error)

    tasks.start(work(), name="task")
    await asyncio.sleep(0)
    await tasks.close()
    assert len(refused) == 1
    assert len(tasks) == 0


async def test_a_failure_is_logged_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[BaseException] = []
    async with Tasks("owner", failures.append) as tasks:
        tasks.start(fail(), name="task")
        await tasks.drain()
    assert [type(error) for error in failures] == [KeyError]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "task owner:task failed"
    ]


async def test_a_failure_during_the_clean_up_is_told_too() -> None:
    async def work() -> None:
        try:
            await for_ever()
        finally:
            raise KeyError("a defect in the clean-up")

    failures: list[BaseException] = []
    tasks = Tasks("owner", failures.append)
    tasks.start(work(), name="task")
    await asyncio.sleep(0)
    await tasks.close()
    await asyncio.sleep(0)
    assert [type(error) for error in failures] == [KeyError]


async def test_a_cancelled_task_is_no_failure() -> None:
    failures: list[BaseException] = []
    async with Tasks("owner", failures.append) as tasks:
        tasks.start(for_ever(), name="task").cancel()
        await tasks.drain()
    assert failures == []


async def test_one_failure_leaves_the_others_running() -> None:
    async with Tasks("owner") as tasks:
        other = tasks.start(for_ever(), name="other")
        failing = tasks.start(fail(), name="failing")
        await asyncio.wait({failing})
        assert not other.done()


async def test_drain_waits_for_all_and_for_what_they_start() -> None:
    ended = []

    async def work(generation: int) -> None:
        await asyncio.sleep(0)
        if generation:
            tasks.start(work(generation - 1), name="next")
        ended.append(generation)

    async with Tasks("owner") as tasks:
        tasks.start(work(3), name="first")
        await tasks.drain()
        assert ended == [3, 2, 1, 0]


async def test_leaving_the_block_with_an_error_closes_too() -> None:
    tasks = Tasks("owner")
    task = tasks.start(for_ever(), name="task")

    async def leave() -> None:
        async with tasks:
            raise KeyError

    with pytest.raises(KeyError):
        await leave()
    assert task.cancelled()
