"""KV messages that are lost on the way are sent again; the tokens are right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.prefill.handoff import HandoffBus
from shared.bus.connection import Bus
from shared.bus.outbox import Outbox
from shared.protocol.to_prefill import Credit, Imported, Nack
from shared.protocol.wire import Message

from .conftest import MakeFleet
from .engines import engine
from .fleet import Fleet, colocated, token_ids
from .prompts import prompt
from .reports import handoff_reports


class Losing:
    """Makes a method of the hand-off lose the calls whose number `lost` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.lost = 0

    def sends(self, method: str, is_lost: Callable[[int], bool]) -> None:
        send = getattr(HandoffBus, method)
        count = 0

        async def sometimes(bus: HandoffBus, *args: object) -> None:
            nonlocal count
            count += 1
            if is_lost(count):
                self.lost += 1
                await asyncio.sleep(0)
            else:
                await send(bus, *args)

        self._monkeypatch.setattr(HandoffBus, method, sometimes)

    def feedback(self, is_lost: Callable[[Message], bool]) -> None:
        post = Outbox.post

        def sometimes(outbox: Outbox, subject: str, message: Message) -> None:
            if isinstance(message, Credit | Nack | Imported) and is_lost(message):
                self.lost += 1
            else:
                post(outbox, subject, message)

        self._monkeypatch.setattr(Outbox, "post", sometimes)


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Losing:
    monkeypatch.setattr("shared.kv.sender.SILENCE_S", 0.05)
    return Losing(monkeypatch)


async def tokens_are_right(fleet: Fleet, length: int = 300) -> None:
    deltas = await fleet.generate(prompt(length), 12)
    assert token_ids(deltas) == colocated(engine(), prompt(length), 12)[0]


@pytest.mark.parametrize("every", [2, 3, 7])
async def test_lost_chunks_are_asked_for_again(make_fleet: MakeFleet, losing: Losing, outsider: Bus, every: int):
    fleet = await make_fleet(chunk_bytes=2048)
    heard = await handoff_reports(outsider)
    losing.sends("chunk", lambda number: number % every == 0)
    await tokens_are_right(fleet)
    await fleet.at_rest()
    await outsider.flush()
    assert losing.lost > 0
    assert len(heard) == 2
    assert all(report.resent_chunks > 0 for report in heard)


async def test_all_chunks_lost_at_first_are_all_sent_again(make_fleet: MakeFleet, losing: Losing):
    fleet = await make_fleet(chunk_bytes=2048)
    losing.sends("chunk", lambda number: number <= 10)
    await tokens_are_right(fleet)


async def test_chunks_lost_under_a_small_window_give_back_their_credit(make_fleet: MakeFleet, losing: Losing):
    fleet = await make_fleet(chunk_bytes=1024, window_bytes=2048)
    losing.sends("chunk", lambda number: number in (1, 2, 5, 6))
    await tokens_are_right(fleet)


async def test_a_lost_manifest_is_repeated(fleet: Fleet, losing: Losing):
    losing.sends("manifest", lambda number: number <= 2)
    await tokens_are_right(fleet)
    assert losing.lost == 2


@pytest.mark.parametrize("kind", [Credit, Nack, Imported])
async def test_lost_feedback_is_asked_for_again(make_fleet: MakeFleet, losing: Losing, kind: type):
    fleet = await make_fleet(chunk_bytes=1024, window_bytes=4096)
    first: list[Message] = []

    def is_lost(message: Message) -> bool:
        if isinstance(message, kind) and not first:
            first.append(message)
            return True
        return False

    losing.feedback(is_lost)
    losing.sends("chunk", lambda number: number == 3)
    async with fleet.freed_soon():
        await tokens_are_right(fleet)
    assert first


async def test_a_handoff_that_never_arrives_goes_elsewhere(make_fleet: MakeFleet, losing: Losing):
    """All chunks of the first placement are lost: the session moves on and its tokens are right."""
    fleet = await make_fleet(chunk_bytes=2048, decodes=2)
    used: set[str] = set()
    chunk = HandoffBus.chunk

    async def only_later_epochs(bus: HandoffBus, header: bytes, payload: memoryview) -> None:
        used.add(bus._chunks)
        if bus._chunks.split(".")[-2] != "0":
            await chunk(bus, header, payload)

    losing._monkeypatch.setattr(HandoffBus, "chunk", only_later_epochs)
    await tokens_are_right(fleet)
    assert len(used) == 2
