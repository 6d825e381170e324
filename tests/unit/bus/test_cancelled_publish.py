"""A publish that is cancelled ends, although the NATS client swallows the cancellation."""

from __future__ import annotations

import asyncio

import pytest

from shared.bus.connection import Bus
from shared.runtime.tasks import Tasks


class StuckClient:
    """As nats-py's client behaves while the socket takes nothing."""

    max_payload = 1 << 20

    def __init__(self) -> None:
        self.waiting = asyncio.Event()

    async def publish(self, subject: str, data: bytes, **options: object) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass


@pytest.mark.timeout(10)
async def test_a_cancelled_publish_raises_cancelled():
    client = StuckClient()
    bus = Bus(client, spawn=lambda coro, name: None)  # type: ignore[arg-type]
    async with Tasks("test") as tasks:
        publishing = tasks.start(bus.publish("subject", b"data"), name="publish")
        await client.waiting.wait()
    assert publishing.cancelled()


@pytest.mark.timeout(10)
async def test_a_publish_in_a_clean_up_after_a_cancellation_goes_on():
    client = StuckClient()
    client.publish = lambda *args, **options: asyncio.sleep(0)  # type: ignore[method-assign]
    bus = Bus(client, spawn=lambda coro, name: None)  # type: ignore[arg-type]
    cleaned_up = []

    async def work() -> None:
        try:
            client.waiting.set()
            await asyncio.Event().wait()
        finally:
            await bus.publish("subject", b"data")
            cleaned_up.append(True)

    async with Tasks("test") as tasks:
        tasks.start(work(), name="work")
        await client.waiting.wait()
    assert cleaned_up == [True]
