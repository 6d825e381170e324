"""A reader that leaves in the very turn of the event loop in which its session is placed."""

from __future__ import annotations

import asyncio

import pytest

from shared.core import Role
from shared.protocol.to_scheduler import Placed
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


async def test_workers_say_in_which_start_they_took_a_session(
    fleet: Fleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch
):
    request = fleet.bus.request
    answers: list[Message] = []

    async def remember(*args: object) -> Message:
        answers.append(await request(*args))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(fleet.bus, "request", remember)
    await fleet.generate(prompt(100), 3)
    (placed,) = answers
    assert isinstance(placed, Placed)
    assert (placed.prefill_boot, placed.decode_boot) == (
        fleet.sessions._fleet.boot(Role.PREFILL, placed.prefill),
        fleet.sessions._fleet.boot(Role.DECODE, placed.decode),
    )
