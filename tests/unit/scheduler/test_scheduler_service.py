"""The scheduler over a real nats-server, with workers that answer as scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from scheduler_words import ScriptedWorkers, decode_beat, prefill_beat, request

from services.scheduler import fleet
from services.scheduler.service import SchedulerService
from services.scheduler.settings import SchedulerSettings
from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.errors import BatonError, Cancelled, Draining, Overloaded, Unavailable
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_decode import Cancel, Claim
from shared.protocol.to_gateway import Taken
from shared.protocol.to_prefill import RunPrefill
from shared.protocol.to_scheduler import CancelPlacement, Placed, PlaceRequest
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)

LONG_MS = 600_000


class Surroundings:
    """One decode and one prefill worker, and a gateway, on one connection."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.workers = ScriptedWorkers()
        self.cancels: asyncio.Queue[tuple[str, Cancel]] = asyncio.Queue()
        self.scheduler_beats: asyncio.Queue[Beat] = asyncio.Queue()

    async def start(self) -> None:
        await self.bus.serve(subjects.claim("d0"), Claim, lambda claim: self.workers.claim("d0", claim))
        await self.bus.serve(subjects.run("p0"), RunPrefill, lambda run: self.workers.run("p0", run))
        for role, worker in ((Role.DECODE, "d0"), (Role.PREFILL, "p0")):
            await self.bus.listen(subjects.cancel(role, worker), self._cancelled)
        await self.bus.listen(subjects.beat(Role.SCHEDULER, "*"), self._beaten)
        await self.bus.flush()

    async def beat(self, **changes: object) -> None:
        """Both workers say they live; `changes` of the decode worker."""
        for beat in (decode_beat("d0", interval_ms=LONG_MS, **changes), prefill_beat("p0", interval_ms=LONG_MS)):
            await self.bus.send(subjects.beat(beat.role, beat.worker), beat)
        await self.bus.flush()

    async def place(self, what: PlaceRequest) -> Placed | BatonError:
        try:
            return await self.bus.request(subjects.PLACE, what, Placed, 10)
        except BatonError as error:
            return error

    async def scheduler_holds(self, sessions: int) -> None:
        """Wait for the beat in which the scheduler says so."""
        while (await self.scheduler_beats.get()).sessions != sessions:
            pass

    def _cancelled(self, subject: str, data: bytes) -> None:
        self.cancels.put_nowait((subject, decode(Cancel, data)))

    def _beaten(self, _subject: str, data: bytes) -> None:
        self.scheduler_beats.put_nowait(decode(Beat, data))


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    failures: list[BaseException] = []
    async with Tasks("scheduler test", failures.append) as owned:
        yield owned
    assert failures == []


@pytest.fixture
async def around(nats_url: str, tasks: Tasks) -> AsyncIterator[Surroundings]:
    bus = await Bus.connect(BusSettings(url=nats_url), name="around", spawn=tasks.start)
    surroundings = Surroundings(bus)
    await surroundings.start()
    yield surroundings
    await bus.close()


@pytest.fixture
async def scheduler(nats_url: str, around: Surroundings) -> AsyncIterator[SchedulerService]:
    failures: list[BaseException] = []
    settings = SchedulerSettings(
        id="sched", queue_limit=2, claim_timeout_s=5, beat_interval_s=0.02, nats=BusSettings(url=nats_url)
    )
    service = SchedulerService(settings, Tasks("scheduler", failures.append))
    await service.start()
    yield service
    await service.stop()
    await service.stop()
    assert failures == []


async def test_a_request_is_placed(scheduler: SchedulerService, around: Surroundings) -> None:
    await around.beat()
    placed = await around.place(request())
    assert isinstance(placed, Placed)
    assert (placed.session, placed.epoch, placed.prefill, placed.decode) == (request().session, 0, "p0", "d0")
    assert around.workers.claims[0].deadline_ms <= 20_000


async def test_whoever_takes_a_request_says_so_before_it_is_answered(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    """By the start and connection that its beats have told of."""
    heard: asyncio.Queue[Taken] = asyncio.Queue()
    await around.bus.listen(subjects.taken(request().gateway), lambda _, data: heard.put_nowait(decode(Taken, data)))
    await around.beat(sessions=10)
    placing = tasks.start(around.place(request()), name="place")
    taken = await heard.get()
    assert not placing.done()
    beat = await around.scheduler_beats.get()
    assert (taken.session, taken.epoch) == (request().session, 0)
    assert (taken.scheduler, taken.boot, taken.connection) == (beat.worker, beat.boot, beat.connection)
    await around.beat()
    await placing


async def test_without_workers_it_is_unavailable(
    scheduler: SchedulerService, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "SETTLE_S", -1.0)
    assert isinstance(await around.place(request()), Unavailable)


async def test_garbage_is_survived(scheduler: SchedulerService, around: Surroundings) -> None:
    for subject in (subjects.PLACE, subjects.CANCEL_PLACEMENT, subjects.beat(Role.DECODE, "d0")):
        for garbage in (b"", b"garbage", b"\x81\xa1v\x02"):
            await around.bus.publish(subject, garbage)
    await around.beat()
    assert isinstance(await around.place(request()), Placed)


async def test_who_finds_no_room_waits_for_a_beat_that_has_some(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    await around.beat(sessions=10)
    placing = tasks.start(around.place(request()), name="place")
    await around.scheduler_holds(1)
    assert around.workers.asked == []
    await around.beat()
    assert isinstance(await placing, Placed)


async def test_who_has_not_begun_gives_way_to_streams_that_wait_at_another_scheduler(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    other = Beat(worker="other", role=Role.SCHEDULER, boot="b", state=WorkerState.READY, interval_ms=LONG_MS)
    waiting = msgspec.structs.replace(other, begun_waiting=(request().model,))
    await around.bus.send(subjects.beat(Role.SCHEDULER, "other"), waiting)
    await around.beat()
    placing = tasks.start(around.place(request()), name="place")
    await around.scheduler_holds(1)
    assert isinstance(await around.place(request(1, epoch=1, emitted=2, begun=True)), Placed)
    assert not placing.done()
    await around.bus.send(subjects.beat(Role.SCHEDULER, "other"), other)
    assert isinstance(await placing, Placed)


async def test_its_beat_says_that_a_begun_stream_waits(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    await around.beat(sessions=10)
    placing = tasks.start(around.place(request(1, epoch=1, emitted=2, begun=True)), name="place")
    while (await around.scheduler_beats.get()).begun_waiting != (request().model,):
        pass
    await around.beat()
    await placing
    while (await around.scheduler_beats.get()).begun_waiting:
        pass


async def test_a_full_queue_is_overloaded(scheduler: SchedulerService, around: Surroundings, tasks: Tasks) -> None:
    await around.beat(sessions=10)
    placing = [tasks.start(around.place(request(number)), name="place") for number in range(2)]
    await around.scheduler_holds(2)
    refused = await around.place(request(2))
    assert isinstance(refused, Overloaded)
    assert refused.retry_after_ms
    await around.beat()
    assert [type(await task) for task in placing] == [Placed, Placed]


async def test_a_cancel_ends_the_wait_and_fences_the_epoch(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    await around.beat(sessions=10)
    placing = tasks.start(around.place(request()), name="place")
    await around.scheduler_holds(1)
    await around.bus.send(subjects.CANCEL_PLACEMENT, CancelPlacement(session=request().session, epoch=0))
    assert isinstance(await placing, Cancelled)
    assert isinstance(await around.place(request()), Cancelled)
    await around.beat()
    assert isinstance(await around.place(request(epoch=1)), Placed)


async def test_a_cancel_while_it_is_being_placed_is_undone_on_both_workers(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    await around.beat()
    answer = asyncio.Event()
    around.workers.answers["p0"] = [answer]
    placing = tasks.start(around.place(request()), name="place")
    while "p0" not in around.workers.asked:
        around.workers.was_asked.clear()
        await around.workers.was_asked.wait()
    await around.bus.send(subjects.CANCEL_PLACEMENT, CancelPlacement(session=request().session, epoch=0))
    await around.bus.flush()
    answer.set()
    assert isinstance(await placing, Cancelled)
    undone = dict([await around.cancels.get(), await around.cancels.get()])
    assert set(undone) == {subjects.cancel(Role.PREFILL, "p0"), subjects.cancel(Role.DECODE, "d0")}
    assert all(cancel.fence for cancel in undone.values())


async def test_drain_lets_those_who_wait_be_placed_and_takes_no_more(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    await around.beat(sessions=10)
    placing = tasks.start(around.place(request()), name="place")
    await around.scheduler_holds(1)
    draining = tasks.start(scheduler.drain(), name="drain")
    while (await around.scheduler_beats.get()).state != "draining":
        pass
    while not isinstance(await around.place(request(1, deadline_ms=1)), Unavailable):
        pass
    assert not draining.done()
    await around.beat()
    assert isinstance(await placing, Placed)
    await draining


async def test_stop_sends_those_who_wait_to_another_scheduler(
    scheduler: SchedulerService, around: Surroundings, tasks: Tasks
) -> None:
    await around.beat(sessions=10)
    placing = tasks.start(around.place(request()), name="place")
    await around.scheduler_holds(1)
    await scheduler.stop()
    refused = await placing
    assert isinstance(refused, Draining)
    assert refused.retryable


async def test_a_scheduler_that_could_not_start_can_be_stopped(nats_url: str) -> None:
    service = SchedulerService(SchedulerSettings(id="sched", nats=BusSettings(url=nats_url)), Tasks("scheduler"))
    await service.stop()


async def test_a_prompt_of_no_whole_ids_costs_nothing(scheduler: SchedulerService, around: Surroundings) -> None:
    await around.beat()
    await around.place(msgspec.structs.replace(request(), prompt_ids=b"\x01\x02\x03\x04\x05"))
    assert isinstance(await around.place(request(1)), Placed)
