"""Workers and schedulers that drain, stop, fail or vanish: streams go on unbroken, with the same tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from services.gateway.sessions.session import Session
from shared.core import SampledToken
from shared.engine.contract import OnLayer, PrefillSlice
from shared.errors import Draining, Unavailable, WorkerFailed
from shared.kv.receiver import Receiver
from shared.protocol.to_decode import Manifest
from shared.protocol.to_gateway import TokenFrame
from shared.protocol.to_prefill import Feedback, TransferRefused
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import Fleet, colocated, eventually, token_ids
from .prompts import prompt
from .stream import SEEDED, Stream


class Broken(GatedEngine):
    """Fails at every call."""

    def prefill(self, slices: Sequence[PrefillSlice], on_layer: OnLayer | None = None) -> list[SampledToken | None]:
        self.fail_next_prefill = True
        return super().prefill(slices, on_layer)

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        self.fail_next_step = True
        return super().step(keys)


def slow() -> Callable[[], object]:
    return lambda: engine(step_s=0.001)


@pytest.mark.parametrize("worker", ["p0", "d0"])
async def test_a_draining_worker_finishes_its_streams_and_takes_no_more(
    make_fleet: MakeFleet, clients: Tasks, worker: str
):
    gated = GatedEngine()
    fleet = await make_fleet(
        make_prefill=lambda: gated if worker == "p0" else engine(),
        make_decode=lambda: gated if worker == "d0" else engine(),
    )
    gate = gated.prefill_gate if worker == "p0" else gated.step_gate
    gate.shut()
    stream = Stream(fleet, clients, max_tokens=50)
    await gate.reached.wait()
    draining = clients.start(fleet.workers[worker].drain(), name="drain")
    await eventually(lambda: any(beat.worker == worker and beat.state == "draining" for beat in fleet.alive()))
    with pytest.raises(Unavailable):
        await fleet.generate(prompt(10))
    assert not draining.done()
    gate.open()
    await stream.is_unbroken()
    await draining


async def test_an_idle_worker_drains_at_once(fleet: Fleet):
    for worker in fleet.workers.values():
        await asyncio.wait_for(worker.drain(), 1)


async def test_a_decode_worker_that_stops_hands_its_streams_to_another(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=slow(), decodes=2)
    streams = [Stream(fleet, clients, prompt_tokens=50 + 10 * number) for number in range(6)]
    for stream in streams:
        await stream.has(20)
    await fleet.stop_worker("d0")
    for stream in streams:
        await stream.is_unbroken()


async def test_a_prefill_worker_that_stops_hands_its_prompts_to_another(make_fleet: MakeFleet, clients: Tasks):
    engines = [GatedEngine(), engine()]
    ready = iter(engines)
    fleet = await make_fleet(make_prefill=lambda: next(ready), prefills=2)
    gated = engines[0]
    gated.prefill_gate.shut()
    streams = [Stream(fleet, clients, max_tokens=20) for _ in range(4)]
    await gated.prefill_gate.reached.wait()
    await streams[1].has(0)
    stopping = clients.start(fleet.stop_worker("p0"), name="stop")
    await eventually(lambda: not any(beat.worker == "p0" for beat in fleet.alive()))
    gated.prefill_gate.open()
    await stopping
    for stream in streams:
        await stream.is_unbroken()


async def test_two_moves_in_a_row_go_unnoticed(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=slow(), decodes=3)
    stream = Stream(fleet, clients, max_tokens=600)
    await stream.has(20)
    for count in (100, 200):
        holder = next(worker for worker in ("d0", "d1", "d2") if worker in fleet.workers and fleet.sessions_on(worker))
        await fleet.stop_worker(holder)
        await stream.has(count)
    await stream.is_unbroken()


@pytest.mark.parametrize("when", ["decoding", "computing"])
async def test_a_worker_that_vanishes_is_noticed_by_its_beats(make_fleet: MakeFleet, clients: Tasks, when: str):
    gated = [GatedEngine(), GatedEngine()]
    ready = iter(gated)
    if when == "decoding":
        fleet = await make_fleet(make_decode=lambda: next(ready), decodes=2)
        gates = {f"d{number}": each.step_gate for number, each in enumerate(gated)}
        for each in gated:
            each.hold_at_step = 10
    else:
        fleet = await make_fleet(make_prefill=lambda: next(ready), prefills=2)
        gates = {f"p{number}": each.prefill_gate for number, each in enumerate(gated)}
        for gate in gates.values():
            gate.shut()
    stream = Stream(fleet, clients)
    await eventually(lambda: any(gate.held for gate in gates.values()))
    lost = next(worker for worker, gate in gates.items() if gate.held)
    for each, (worker, gate) in zip(gated, gates.items(), strict=True):
        if worker != lost:
            each.hold_at_step = None
            gate.open()
    await fleet.lose_worker(lost)
    await stream.is_unbroken()
    gates[lost].open()


async def test_when_nobody_is_left_the_stream_ends_with_a_typed_error(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=slow())
    stream = Stream(fleet, clients)
    await stream.has(10)
    await fleet.stop_worker("d0")
    with pytest.raises(Unavailable):
        await stream.task
    assert stream.ids == colocated(engine(), prompt(80), 300, SEEDED)[0][: len(stream.ids)]


async def test_streams_do_not_need_the_scheduler(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=slow())
    stream = Stream(fleet, clients)
    await stream.has(10)
    await fleet.stop_scheduler("s0")
    await stream.is_unbroken()


async def test_two_schedulers_share_the_requests(make_fleet: MakeFleet):
    fleet = await make_fleet(schedulers=2, prefills=2, decodes=2)
    placed = dict.fromkeys(fleet.schedulers, 0)
    for name, service in fleet.schedulers.items():
        place = service._rooms.place

        async def counted(request, name=name, place=place):
            placed[name] += 1
            return await place(request)

        service._rooms.place = counted
    answers = await asyncio.gather(*(fleet.generate(prompt(20 + n), 5) for n in range(40)))
    for n, deltas in enumerate(answers):
        assert token_ids(deltas) == colocated(engine(), prompt(20 + n), 5)[0]
    assert all(placed.values()), placed
    await fleet.stop_scheduler("s0")
    await fleet.generate(prompt(10))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_failing_engine_call_moves_the_session(make_fleet: MakeFleet, clients: Tasks, phase: str):
    gated = GatedEngine()
    fleet = await make_fleet(
        make_prefill=lambda: gated if phase == "prefill" else engine(),
        make_decode=lambda: gated if phase == "decode" else engine(),
    )
    if phase == "prefill":
        gated.fail_next_prefill = True
        streams = [Stream(fleet, clients, max_tokens=20)]
    else:
        streams = [Stream(fleet, clients, max_tokens=500, prompt_tokens=10 + n) for n in range(3)]
        for stream in streams:
            await stream.has(5)
        gated.fail_next_step = True
    for stream in streams:
        await stream.is_unbroken()


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_worker_that_failed_a_session_does_not_get_it_again(make_fleet: MakeFleet, phase: str):
    """One that fails at once is always the least loaded."""
    engines = [Broken(), engine()]
    ready = iter(engines)
    fleet = await make_fleet(
        make_prefill=(lambda: next(ready)) if phase == "prefill" else engine,
        make_decode=(lambda: next(ready)) if phase == "decode" else engine,
        prefills=2 if phase == "prefill" else 1,
        decodes=2 if phase == "decode" else 1,
        attempts=2,
    )
    for number in range(2):
        deltas = await fleet.generate(prompt(30 + number), 5)
        assert token_ids(deltas) == colocated(engine(), prompt(30 + number), 5)[0]


async def test_an_engine_that_always_fails_is_tried_so_often_and_no_more(make_fleet: MakeFleet):
    broken = Broken()
    fleet = await make_fleet(make_decode=lambda: broken, attempts=3)
    with pytest.raises(WorkerFailed):
        await fleet.generate(prompt(30))
    assert broken.steps == 3


@pytest.mark.parametrize("lost", [0, 1, 5], ids=["first token", "second token", "later token"])
async def test_tokens_lost_on_the_way_to_the_gateway_come_again(
    make_fleet: MakeFleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch, lost: int
):
    monkeypatch.setattr("services.gateway.sessions.watch.MISSING_S", 0.05)
    on_frame = Session.on_frame

    def losing(session: Session, frame: TokenFrame) -> None:
        if not (frame.epoch == 0 and frame.ids and frame.index == lost):
            on_frame(session, frame)

    monkeypatch.setattr(Session, "on_frame", losing)
    fleet = await make_fleet()
    await Stream(fleet, clients, max_tokens=50).is_unbroken()


async def test_a_refused_transfer_moves_the_session(
    make_fleet: MakeFleet, clients: Tasks, monkeypatch: pytest.MonkeyPatch
):
    on_manifest = Receiver.on_manifest

    def refusing(receiver: Receiver, manifest: Manifest) -> Feedback | None:
        if manifest.epoch == 0:
            return TransferRefused(transfer=manifest.transfer, reason="made to refuse")
        return on_manifest(receiver, manifest)

    monkeypatch.setattr(Receiver, "on_manifest", refusing)
    fleet = await make_fleet()
    await Stream(fleet, clients, max_tokens=20).is_unbroken()


async def test_a_draining_gateway_finishes_its_streams_and_takes_no_more(fleet: Fleet, clients: Tasks):
    stream = Stream(fleet, clients)
    await stream.has(1)
    draining = clients.start(fleet.sessions.drain(), name="drain")
    await asyncio.sleep(0)
    with pytest.raises(Draining) as refused:
        await fleet.generate(prompt(10))
    assert refused.value.retry_after_ms
    assert not draining.done()
    await stream.is_unbroken()
    await draining


async def test_a_slow_reader_gets_all_and_holds_up_nobody(fleet: Fleet):
    async with fleet.sessions.generate(fleet.generating(prompt(80), 300, SEEDED)) as generation:
        deltas = [await anext(aiter(generation))]
        await fleet.generate(prompt(20), 50)
        await eventually(lambda: not fleet.sessions_on("d0"))
        deltas += [delta async for delta in generation]
    assert token_ids(deltas) == colocated(engine(), prompt(80), 300, SEEDED)[0]
    assert len(deltas) < 10, "what waits is read at once"
