"""A reader that leaves in the very turn of the event loop in which its session is placed."""

from __future__ import annotations

import asyncio

import pytest

from shared.protocol.wire import Message
from shared.runtime.tasks import Tasks

from .fleet import Fleet
from .prompts import prompt


async def test_it_is_cancelled_on_the_workers_that_hold_it(
    fleet: Fleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch
):
    request = fleet.bus.request

    async def leave_with_the_answer(*args: object) -> Message:
        answer = await request(*args)  # type: ignore[arg-type]
        asyncio.get_running_loop().call_soon(client.cancel)
        return answer

    monkeypatch.setattr(fleet.bus, "request", leave_with_the_answer)
    client = clients.start(fleet.generate(prompt(100), 3000), name="client")
    await asyncio.wait([client])
    assert client.cancelled()
    await fleet.at_rest(within_s=1)
