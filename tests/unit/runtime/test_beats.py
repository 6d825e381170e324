"""The heartbeat: regular, brought forward by changes, missed without a connection, ended by nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.core import Role
from shared.errors import Unavailable
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.wire import decode
from shared.runtime.beats import MIN_GAP_S, Heartbeat, new_boot, next_boot, same_process
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(10)

NEVER_S = 3600.0


class Bus:
    """Keeps what is published; fails the next publish if told to."""

    def __init__(self) -> None:
        self.connected = True
        self.fail_next = False
        self.sent: asyncio.Queue[tuple[str, Beat, float]] = asyncio.Queue()

    async def publish(self, subject: str, data: bytes) -> None:
        if self.fail_next:
            self.fail_next = False
            raise Unavailable("NATS: buffer full")
        self.sent.put_nowait((subject, decode(Beat, data), asyncio.get_running_loop().time()))


@pytest.fixture
def bus() -> Any:
    return Bus()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    failures: list[BaseException] = []
    async with Tasks("test", failures.append) as owned:
        yield owned
    assert failures == []


class Load:
    """What the beats tell."""

    sessions = 0

    def beat(self) -> Beat:
        return Beat(
            worker="d0",
            role=Role.DECODE,
            boot="b",
            state=WorkerState.READY,
            interval_ms=1000,
            sessions=self.sessions,
        )


async def test_it_beats_at_its_interval(bus: Any, tasks: Tasks) -> None:
    tasks.start(Heartbeat(bus, Load().beat, 0.01).run(), name="heartbeat")
    beats = [await bus.sent.get() for _ in range(3)]
    assert {subject for subject, _, _ in beats} == {subjects.beat(Role.DECODE, "d0")}


async def test_a_change_brings_the_next_beat_forward_with_the_news(bus: Any, tasks: Tasks) -> None:
    load = Load()
    heartbeat = Heartbeat(bus, load.beat, NEVER_S)
    tasks.start(heartbeat.run(), name="heartbeat")
    await bus.sent.get()
    load.sessions = 7
    heartbeat.changed()
    assert (await bus.sent.get())[1].sessions == 7


async def test_many_changes_are_told_by_few_beats_and_the_last_is_not_missed(bus: Any, tasks: Tasks) -> None:
    load = Load()
    heartbeat = Heartbeat(bus, load.beat, NEVER_S)
    tasks.start(heartbeat.run(), name="heartbeat")
    times = [(await bus.sent.get())[2]]
    for sessions in range(1, 1000):
        load.sessions = sessions
        heartbeat.changed()
        if not sessions % 100:
            await asyncio.sleep(0)
    sessions = 0
    while sessions != 999:
        _, beat, sent_s = await bus.sent.get()
        times.append(sent_s)
        sessions = beat.sessions
    assert all(later - earlier >= MIN_GAP_S * 0.9 for earlier, later in itertools.pairwise(times))


async def test_without_a_connection_it_waits(bus: Any, tasks: Tasks) -> None:
    bus.connected = False
    heartbeat = Heartbeat(bus, Load().beat, 0.001)
    tasks.start(heartbeat.run(), name="heartbeat")
    await asyncio.sleep(2 * MIN_GAP_S)
    assert bus.sent.empty()
    bus.connected = True
    await bus.sent.get()


async def test_a_beat_that_cannot_be_sent_ends_nothing(bus: Any, tasks: Tasks) -> None:
    bus.fail_next = True
    tasks.start(Heartbeat(bus, Load().beat, 0.001).run(), name="heartbeat")
    await bus.sent.get()
    assert not bus.fail_next


def test_every_start_has_its_own_boot() -> None:
    assert len({new_boot() for _ in range(100)}) == 100


def test_a_process_that_let_go_of_all_has_another_boot_and_is_the_same_process() -> None:
    boots = [new_boot()]
    for _ in range(3):
        boots.append(next_boot(boots[-1]))
    assert len(set(boots)) == 4
    assert all(same_process(boots[0], boot) for boot in boots)
    assert not same_process(boots[-1], next_boot(new_boot()))
