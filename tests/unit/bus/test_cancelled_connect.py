"""Cancelling the wait for a server, whatever step of an attempt to connect that meets."""

from __future__ import annotations

import asyncio

import pytest

from services.local.free_port import port_or_free
from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks


@pytest.mark.parametrize("steps", range(10))
async def test_a_connect_without_a_server_can_be_cancelled_at_any_step(steps: int) -> None:
    settings = BusSettings(url=f"nats://127.0.0.1:{port_or_free('127.0.0.1', 0)}")
    async with Tasks("test") as tasks:
        connecting = tasks.start(Bus.connect(settings, name="test", spawn=tasks.start), name="connect")
        for _ in range(steps):
            await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await connecting
