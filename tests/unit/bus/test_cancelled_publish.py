"""A publish that is cancelled ends, although the NATS client swallows the cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from shared.bus.connection import Bus
from shared.runtime.tasks import Tasks


class Client:
    """As nats-py's client behaves: while the socket takes nothing, `publish` waits and swallows a cancellation."""

    max_payload = 1 << 20

    def __init__(self, *, stuck: bool) -> None:
        self._stuck = stuck
        self.waiting = asyncio.Event()

    async def publish(self, subject: str, data: bytes, **options: object) -> None:
        self.waiting.set()
        if self._stuck:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


def bus(client: Any, tasks: Tasks) -> Bus:
    return Bus(client, tasks.start)


@pytest.mark.timeout(10)
async def test_a_cancelled_publish_raises_cancelled():
    client = Client(stuck=True)
    async with Tasks("test") as tasks:
        publishing = tasks.start(bus(client, tasks).publish("subject", b"data"), name="publish")
        await client.waiting.wait()
    assert publishing.cancelled()


@pytest.mark.timeout(10)
async def test_a_publish_in_a_clean_up_after_a_cancellation_goes_on():
    started = asyncio.Event()
    published = []

    async def work() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await bus(Client(stuck=False), tasks).publish("subject", b"data")
            published.append(True)

    async with Tasks("test") as tasks:
        tasks.start(work(), name="work")
        await started.wait()
    assert published == [True]
