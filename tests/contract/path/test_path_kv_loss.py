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
from .engines import GatedEngine, engine
from .fleet import Fleet, colocated, eventually, token_ids
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
async def test_lost_feedback_is_asked_for_again(
    make_fleet: MakeFleet, losing: Losing, outsider: Bus, kind: type[Message]
):
    """Or said again: by the time prefill asks, decode is done and holds nothing any more."""
    fleet = await make_fleet(chunk_bytes=1024, window_bytes=4096)
    heard = await handoff_reports(outsider)
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
    await eventually(lambda: len(heard) == 2)


async def test_a_manifest_repeated_to_a_running_session_changes_nothing(make_fleet: MakeFleet, losing: Losing):
    decode_engine = GatedEngine()
    decode_engine.hold_at_step = 2
    fleet = await make_fleet(make_decode=lambda: decode_engine, attempts=1)
    answers: list[Message] = []

    def is_lost(message: Message) -> bool:
        answers.append(message)
        return isinstance(message, Imported) and not any(isinstance(one, Imported) for one in answers[:-1])

    losing.feedback(is_lost)
    generating = asyncio.ensure_future(tokens_are_right(fleet))
    await eventually(lambda: decode_engine.step_gate.held and fleet.sessions_on("p0") == 0)
    assert losing.lost == 1
    decode_engine.step_gate.open()
    await generating


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
