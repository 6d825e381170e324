"""A worker is cut off from NATS, and heard again: it lets go before others take over, and nothing it says counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from cut_proxy import CutProxy

from shared.bus.connection import Bus
from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_decode import Claim
from shared.protocol.to_gateway import TokenBatch
from shared.protocol.to_prefill import RunPrefill
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks
from shared.runtime.tenure import Tenure, TenureState

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import GATEWAY, Fleet, eventually
from .stream import Stream

pytestmark = pytest.mark.timeout(60)

GONE = (TenureState.LAPSED, TenureState.FORFEITED)


@pytest.fixture
async def way(nats_url: str) -> AsyncIterator[CutProxy]:
    """The way to NATS of one worker."""
    port = urlsplit(nats_url).port
    assert port is not None
    proxy = CutProxy(port)
    await proxy.start()
    yield proxy
    await proxy.close()


class Overheard:
    """What is said on the bus while `cut` may hold a session that others get."""

    def __init__(self, cut: Tenure) -> None:
        self._cut = cut
        self.taken_over: list[tuple[int, TenureState]] = []
        self.said: list[tuple[str, int]] = []

    async def listen(self, bus: Bus) -> None:
        await bus.listen(subjects.claim("*"), lambda _, data: self._moved(decode(Claim, data).epoch))
        await bus.listen(subjects.run("*"), lambda _, data: self._moved(decode(RunPrefill, data).epoch))
        await bus.listen(subjects.tokens(GATEWAY), self._tokens)
        await bus.flush()

    def _moved(self, epoch: int) -> None:
        if epoch:
            self.taken_over.append((epoch, self._cut.state))

    def _tokens(self, _subject: str, data: bytes) -> None:
        batch = decode(TokenBatch, data)
        self.said += [(batch.worker, frame.epoch) for frame in batch.frames]


async def overheard(bus: Bus, cut: Tenure) -> Overheard:
    found = Overheard(cut)
    await found.listen(bus)
    return found


@pytest.mark.parametrize("how", [("cut", False), ("cut", True), ("swallow", False), ("swallow", True)])
async def test_decode_lets_go_before_another_takes_over(
    make_fleet: MakeFleet, outsider: Bus, clients: Tasks, way: CutProxy, how: tuple[str, bool]
):
    fleet: Fleet = await make_fleet(make_decode=lambda: engine(step_s=0.005), ways={"d0": way.url})
    kind, long = how
    tenure, boot = fleet.links("d0").tenure, fleet.links("d0").tenure.boot
    heard = await overheard(outsider, tenure)
    stream = Stream(fleet, clients)
    await stream.has(20)
    getattr(way, kind)()
    await fleet.start_decode("d1")
    before = len(stream.ids)
    await stream.has(before + 1)
    assert {epoch for epoch, _ in heard.taken_over} == {1}
    assert {state for _, state in heard.taken_over} <= set(GONE)
    if long:
        await eventually(lambda: tenure.state is TenureState.FORFEITED)
        await eventually(lambda: not fleet.sessions_on("d0"))
        usage = fleet.engines["d0"].usage()
        assert usage.free_bytes == usage.total_bytes
    heard.said.clear()
    way.heal()
    await eventually(lambda: tenure.state is TenureState.HELD)
    assert not fleet.sessions_on("d0")
    assert (tenure.boot != boot) is long
    await stream.is_unbroken()
    assert ("d0", 0) not in heard.said


@pytest.mark.parametrize("how", ["cut", "swallow"])
async def test_prefill_lets_go_before_another_takes_over(
    make_fleet: MakeFleet, outsider: Bus, clients: Tasks, way: CutProxy, how: str
):
    gated = GatedEngine()
    engines = iter([gated, engine()])
    fleet: Fleet = await make_fleet(make_prefill=lambda: next(engines), ways={"p0": way.url})
    tenure = fleet.links("p0").tenure
    heard = await overheard(outsider, tenure)
    gated.prefill_gate.shut()
    stream = Stream(fleet, clients, max_tokens=40)
    await gated.prefill_gate.reached.wait()
    getattr(way, how)()
    await fleet.start_prefill("p1")
    await eventually(lambda: bool(heard.taken_over))
    assert {state for _, state in heard.taken_over} <= set(GONE)
    gated.prefill_gate.open()
    await stream.is_unbroken()
    heard.said.clear()
    way.heal()
    await eventually(lambda: tenure.state is TenureState.HELD and not fleet.sessions_on("p0"))
    assert ("p0", 0) not in heard.said


async def test_a_short_cut_moves_nothing(make_fleet: MakeFleet, outsider: Bus, clients: Tasks, way: CutProxy):
    """Back before anyone takes it for dead: the session goes on where it was."""
    fleet: Fleet = await make_fleet(make_decode=lambda: engine(step_s=0.005), ways={"d0": way.url})
    tenure = fleet.links("d0").tenure
    heard = await overheard(outsider, tenure)
    stream = Stream(fleet, clients)
    await stream.has(20)
    way.cut()
    await eventually(lambda: tenure.state is not TenureState.HELD)
    way.heal()
    await eventually(lambda: tenure.state is TenureState.HELD)
    await stream.is_unbroken()
    assert heard.taken_over == []


async def test_the_last_token_lost_with_the_connection_is_said_again(
    make_fleet: MakeFleet, clients: Tasks, way: CutProxy
):
    """The worker thinks the session has ended well, and the gateway has not heard of it."""
    gated = GatedEngine()
    fleet: Fleet = await make_fleet(make_decode=lambda: gated, ways={"d0": way.url})
    await eventually(lambda: fleet.links("d0").gateways.is_alive(Role.GATEWAY, GATEWAY))
    gated.hold_at_step = 39
    stream = Stream(fleet, clients, max_tokens=40)
    await stream.has(39)
    [session] = fleet.sessions._table
    await eventually(lambda: gated.step_gate.held)
    way.swallow()
    gated.step_gate.open()
    await eventually(lambda: not fleet.sessions_on("d0"))
    await asyncio.sleep(0)
    way.heal()
    async with asyncio.timeout(10):
        await stream.is_unbroken()
    assert session.moves == 0


async def test_a_gateway_that_hears_nothing_takes_nobody_for_dead(make_fleet: MakeFleet, clients: Tasks, way: CutProxy):
    """It gives the dead connection up by itself, and its stream goes on once there is a way again."""
    fleet: Fleet = await make_fleet(make_decode=lambda: engine(step_s=0.005), ways={GATEWAY: way.url})
    stream = Stream(fleet, clients)
    await stream.has(20)
    [session] = fleet.sessions._table
    way.swallow()
    await eventually(lambda: not fleet.bus.connected)
    assert session.moves == 0
    way.heal()
    await stream.is_unbroken()
    assert session.moves == 0
