"""A block that somebody else may end early."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.sequence.scope import CancelScope


async def test_cancel_ends_the_block_and_nothing_else() -> None:
    scope = CancelScope()
    asyncio.get_running_loop().call_soon(scope.cancel)
    async with scope:
        await asyncio.Event().wait()
    assert scope.cancelled
    await asyncio.sleep(0)


async def test_a_cancel_before_the_block_ends_it_where_it_first_waits() -> None:
    scope = CancelScope()
    scope.cancel()
    async with scope:
        await asyncio.Event().wait()


async def test_a_cancel_after_the_block_is_harmless() -> None:
    scope = CancelScope()
    async with scope:
        pass
    scope.cancel()
    await asyncio.sleep(0)


async def test_errors_of_the_block_pass_through() -> None:
    for error in (ValueError, TimeoutError):
        with pytest.raises(error):
            async with CancelScope():
                raise error


async def test_the_end_of_the_task_is_not_mistaken_for_it() -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with CancelScope():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
