"""Credit: the sender never goes beyond what was granted, and nothing but loss can make it wait."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run

from shared.kv.credit import ReceiveCredit, SendCredit
from shared.runtime.tasks import Tasks


@given(
    window=st.integers(1, 300),
    takers=st.lists(st.lists(st.integers(1, 100), max_size=8), min_size=1, max_size=4),
    grants=st.lists(st.integers(0, 4000), max_size=30),
)
@settings(max_examples=200, deadline=None)
def test_whoever_takes_and_grants_in_whatever_order(window: int, takers: list[list[int]], grants: list[int]) -> None:
    async def go() -> None:
        credit = SendCredit(window)
        allowed = window

        async def take(sizes: list[int]) -> None:
            for size in sizes:
                assert await credit.take(size)
                assert credit.published_bytes <= allowed

        async with Tasks("takers") as tasks:
            for sizes in takers:
                tasks.start(take(sizes), name="take")
            for total in [*grants, 10_000]:
                await asyncio.sleep(0)
                allowed = max(allowed, total)
                credit.grant(total)
            await tasks.drain()
        assert credit.published_bytes == sum(map(sum, takers))

    run(go())


def test_an_older_grant_changes_nothing() -> None:
    async def go() -> None:
        credit = SendCredit(100)
        credit.grant(300)
        credit.grant(200)
        assert await credit.take(300)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await credit.take(1)
        assert credit.published_bytes == 300

    run(go())


def test_a_wait_that_is_cancelled_takes_nothing() -> None:
    async def go() -> None:
        credit = SendCredit(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await credit.take(11)
        assert credit.published_bytes == 0
        assert await credit.take(10)

    run(go())


def test_the_end_of_the_transfer_ends_the_wait() -> None:
    async def go() -> None:
        credit = SendCredit(10)
        async with Tasks("taker") as tasks:
            taking = tasks.start(credit.take(11), name="take")
            await asyncio.sleep(0)
            credit.end()
            assert await taking is False
        assert await credit.take(1) is False
        assert credit.published_bytes == 0

    run(go())


@given(window=st.integers(1, 1000), sizes=st.lists(st.integers(0, 400), max_size=60))
def test_what_is_granted_is_never_more_than_a_window_beyond_what_arrived(window: int, sizes: list[int]) -> None:
    credit = ReceiveCredit(window)
    arrived = 0
    for size in sizes:
        before = credit.granted_bytes
        total = credit.take_in(size)
        arrived += size
        assert credit.granted_bytes == (before if total is None else total)
        assert before <= credit.granted_bytes <= arrived + window


@given(window=st.integers(2, 1000), sizes=st.lists(st.integers(1, 1000), max_size=60))
def test_a_sender_of_chunks_of_half_a_window_never_waits_for_more_than_what_is_on_its_way(
    window: int, sizes: list[int]
) -> None:
    credit = ReceiveCredit(window)
    published = 0
    for size in (min(size, window // 2) for size in sizes):
        assert published + size <= credit.granted_bytes
        published += size
        credit.take_in(size)


@given(
    window=st.integers(1, 1000),
    arrived=st.lists(st.integers(0, 400), max_size=20),
    published=st.lists(st.integers(0, 4000), max_size=5),
)
def test_settling_only_ever_grants_more(window: int, arrived: list[int], published: list[int]) -> None:
    credit = ReceiveCredit(window)
    for size in arrived:
        credit.take_in(size)
    for total in published:
        before = credit.granted_bytes
        assert credit.settle(total) == credit.granted_bytes >= max(before, total + window)
