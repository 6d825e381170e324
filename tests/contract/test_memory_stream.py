"""The stream in the memory of a real NATS server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bus_servers import RestartableServer
from nats_without_jetstream import ServerWithoutJetStream

from shared.bus.connection import Bus, Unreached
from shared.bus.memory_stream import BATCH, MemoryStream, NoJetStream, StreamLimits, WrittenMeanwhile
from shared.bus.settings import BusSettings
from shared.protocol.journal import Owned
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(30)

ROOT = "test.memory"
LIMITS = StreamLimits(max_bytes=1 << 20, max_age_s=60)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestartableServer]:
    server = RestartableServer(tmp_path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks("test") as tasks:
        yield tasks


@pytest.fixture
async def bus(server: RestartableServer, tasks: Tasks) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusSettings(url=server.url), name="test", spawn=tasks.start)
    yield bus
    await bus.close()


def stream_of(bus: Bus, limits: StreamLimits = LIMITS) -> MemoryStream:
    return MemoryStream(bus, "TEST", ROOT, limits)


def owned(tenure: int) -> Owned:
    return Owned(tenure=tenure, gateway="g")


async def tenures(stream: MemoryStream, subject: str) -> list[int]:
    return [decode(Owned, stored.data).tenure for stored in await stream.read(subject)]


async def test_what_is_put_is_read_in_order_and_only_its_subject(bus: Bus):
    stream = stream_of(bus)
    await stream.ensure()
    for number in range(5):
        await stream.put(f"{ROOT}.a.x", owned(number))
        await stream.append(f"{ROOT}.b.x", owned(number))
    assert await tenures(stream, f"{ROOT}.a.>") == list(range(5))
    assert await tenures(stream, f"{ROOT}.c.>") == []


async def test_more_than_a_batch_is_read_whole(bus: Bus):
    stream = stream_of(bus)
    await stream.ensure()
    for number in range(BATCH + 10):
        await stream.append(f"{ROOT}.a.x", owned(number))
    await stream.put(f"{ROOT}.a.x", owned(BATCH + 10))
    assert await tenures(stream, f"{ROOT}.a.>") == list(range(BATCH + 11))


async def test_of_two_who_expect_the_same_one_is_told(bus: Bus):
    stream = stream_of(bus)
    await stream.ensure()
    first, second = await asyncio.gather(
        stream.put(f"{ROOT}.a.owner", owned(1), expect=0),
        stream.put(f"{ROOT}.a.owner", owned(2), expect=0),
        return_exceptions=True,
    )
    assert isinstance(first, int)
    assert isinstance(second, WrittenMeanwhile)
    assert await stream.put(f"{ROOT}.a.owner", owned(2), expect=first) > first


async def test_another_gateway_finds_the_stream_whatever_its_limits(bus: Bus):
    created = await stream_of(bus).ensure()
    assert await stream_of(bus).ensure() == created
    assert await stream_of(bus, StreamLimits(max_bytes=1 << 16, max_age_s=1)).ensure() == created


async def test_the_oldest_goes_when_it_is_full(bus: Bus):
    stream = stream_of(bus, StreamLimits(max_bytes=10_000, max_age_s=60))
    await stream.ensure()
    for number in range(500):
        await stream.append(f"{ROOT}.a.x", owned(number))
    await stream.put(f"{ROOT}.a.x", owned(500))
    kept = await tenures(stream, f"{ROOT}.a.>")
    assert 10 < len(kept) < 200
    assert kept[-1] == 500


async def test_a_restarted_server_has_another_stream(server: RestartableServer, bus: Bus):
    stream = stream_of(bus)
    created = await stream.ensure()
    await stream.put(f"{ROOT}.a.x", owned(1))
    await server.stop()
    await server.start()
    while True:
        try:
            await bus.flush()
            break
        except Exception:  # noqa: BLE001 - not connected again yet
            await asyncio.sleep(0.02)
    with pytest.raises(Unreached):
        await stream.put(f"{ROOT}.a.x", owned(2))
    assert await stream.ensure() != created
    assert await tenures(stream, f"{ROOT}.a.>") == []


async def test_a_server_without_jetstream_is_told_apart_at_once(tmp_path: Path, tasks: Tasks):
    server = ServerWithoutJetStream(tmp_path)
    await server.start()
    bus = await Bus.connect(BusSettings(url=server.url), name="test", spawn=tasks.start)
    async with asyncio.timeout(1):
        with pytest.raises(NoJetStream, match="has no JetStream"):
            await stream_of(bus).ensure()
    await bus.close()
    await server.stop()


@pytest.mark.parametrize("limits", [{"max_bytes": 1 << 40}, {"max_bytes": 1 << 20, "replicas": 3}])
async def test_a_stream_that_this_server_cannot_hold_is_not_waited_for(bus: Bus, limits: dict[str, int]):
    with pytest.raises(NoJetStream, match=r"memory|replicas"):
        await stream_of(bus, StreamLimits(max_age_s=60, **limits)).ensure()
