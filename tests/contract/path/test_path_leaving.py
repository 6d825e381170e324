"""A reader that leaves, or whose time is up, at any stage: both workers are free again within a second."""

from __future__ import annotations

import asyncio

import pytest

from services.prefill.handoff import HandoffBus
from shared.errors import DeadlineExceeded
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import Fleet, eventually
from .prompts import prompt


class Stage:
    """A fleet that is held at one stage, with one client in it."""

    def __init__(self, make_fleet: MakeFleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
        self._make_fleet = make_fleet
        self._clients = clients
        self._monkeypatch = monkeypatch
        self._prefill = GatedEngine()
        self._decode = GatedEngine(kv_tokens=2200)
        self.deadline_s = 30.0

    async def reach(self, stage: str) -> Fleet:
        self.fleet = await self._make_fleet(make_prefill=lambda: self._prefill, make_decode=lambda: self._decode)
        await getattr(self, f"_{stage}")()
        return self.fleet

    def release(self) -> None:
        self._prefill.prefill_gate.open()
        self._decode.step_gate.open()

    async def _start(self) -> None:
        generation = self.fleet.generate(prompt(150), 2000, deadline_s=self.deadline_s)
        self.client = self._clients.start(generation, name="client")
        await eventually(lambda: len(self.fleet.sessions) > 0)

    async def _placement(self) -> None:
        await self._start()

    async def _scheduler_queue(self) -> None:
        self._decode.step_gate.shut()
        self.other = self._clients.start(self.fleet.generate(prompt(150), 2000), name="other")
        await self._decode.step_gate.reached.wait()
        await self._start()
        await eventually(lambda: self.fleet.schedulers["s0"]._rooms.inside == 1)

    async def _prefill_queue(self) -> None:
        self._prefill.prefill_gate.shut()
        self.other = self._clients.start(self.fleet.generate(prompt(10), 4), name="other")
        await self._prefill.prefill_gate.reached.wait()
        await self._start()
        await eventually(lambda: self.fleet.sessions_on("p0") == 2)

    async def _prefill_call(self) -> None:
        self._prefill.prefill_gate.shut()
        await self._start()
        await self._prefill.prefill_gate.reached.wait()

    async def _handoff(self) -> None:
        stuck = asyncio.Event()

        async def chunk(self: HandoffBus, header: bytes, payload: memoryview) -> None:
            stuck.set()
            await asyncio.Event().wait()

        self._monkeypatch.setattr(HandoffBus, "chunk", chunk)
        await self._start()
        await stuck.wait()

    async def _decode_step(self) -> None:
        self._decode.step_gate.shut()
        await self._start()
        await self._decode.step_gate.reached.wait()


STAGES = ("placement", "scheduler_queue", "prefill_queue", "prefill_call", "handoff", "decode_step")


@pytest.fixture
async def stage(make_fleet: MakeFleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(make_fleet, clients, monkeypatch)


@pytest.mark.parametrize("where", STAGES)
async def test_a_reader_that_leaves_frees_everything_soon(stage: Stage, where: str):
    fleet = await stage.reach(where)
    stage.client.cancel()
    await asyncio.wait([stage.client])
    async with fleet.freed_soon():
        stage.release()
        if hasattr(stage, "other"):
            await stage.other


@pytest.mark.parametrize("where", STAGES[1:])
async def test_a_deadline_ends_the_request_at_any_stage(stage: Stage, where: str):
    stage.deadline_s = 0.4
    fleet = await stage.reach(where)
    with pytest.raises(DeadlineExceeded):
        await stage.client
    async with fleet.freed_soon():
        stage.release()
        if hasattr(stage, "other"):
            await stage.other


async def test_a_cancel_that_finds_the_hand_off_waiting_for_the_socket_ends_it(
    make_fleet: MakeFleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch
):
    """The freed cache must not be read then."""
    stuck = asyncio.Event()

    async def wait_for_ever() -> None:
        stuck.set()
        await asyncio.Event().wait()

    fleet = await make_fleet(chunk_bytes=1024)
    links = fleet.workers["p0"]._links
    assert links is not None
    monkeypatch.setattr(links.kv._link, "writable", wait_for_ever)
    client = clients.start(fleet.generate(prompt(300)), name="client")
    await stuck.wait()
    client.cancel()
    await fleet.at_rest(within_s=1)
    assert not fleet.failures


async def test_leaving_at_any_moment_leaves_nothing(make_fleet: MakeFleet, clients: Tasks):
    """The moment: after so many turns of the event loop."""
    fleet = await make_fleet(chunk_tokens=16, chunk_bytes=256, window_bytes=1024)
    for turns in range(0, 300, 3):
        client = clients.start(fleet.generate(prompt(60), 3), name="client")
        for _ in range(turns):
            await asyncio.sleep(0)
        client.cancel()
        await asyncio.wait([client])
    await fleet.at_rest(within_s=2)


async def test_many_readers_that_leave_among_many_that_stay(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=lambda: engine(step_s=0.002), prefills=2, decodes=2, chunk_tokens=32)
    asked = [clients.start(fleet.generate(prompt(50 + 10 * n), 20), name="client") for n in range(30)]
    quiet = [await fleet.generate(prompt(5), 5)]
    for client in asked[::2]:
        client.cancel()
    await asyncio.wait(asked)
    quiet += [client.result() for client in asked[1::2]]
    assert all(deltas[-1].finish for deltas in quiet)
    await fleet.at_rest(within_s=1)


async def test_a_reader_that_never_reads_holds_nothing(fleet: Fleet):
    async with fleet.sessions.generate(fleet.generating(prompt(10))):
        pass
    assert fleet.leftovers() == []


async def test_a_reader_that_stops_between_tokens_frees_everything_soon(fleet: Fleet):
    async with fleet.freed_soon(), fleet.sessions.generate(fleet.generating(prompt(10), 4000)) as generation:
        async for _ in generation:
            break


async def test_a_gateway_that_falls_silent_is_freed_after_its_grace(
    make_fleet: MakeFleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("shared.runtime.reaper.GRACE_S", 0.2)
    decode, prefill = GatedEngine(), GatedEngine()
    fleet = await make_fleet(make_prefill=lambda: prefill, make_decode=lambda: decode, prefills=1)
    clients.start(fleet.generate(prompt(10), 4000), name="decoding")
    await decode.step_gate.reached.wait()
    prefill.prefill_gate.shut()
    clients.start(fleet.generate(prompt(300), 10), name="computing")
    await prefill.prefill_gate.reached.wait()
    await fleet.silence_gateway()
    prefill.prefill_gate.open()
    await eventually(lambda: not fleet.sessions_on("p0") and not fleet.sessions_on("d0"))
    await clients.close()
