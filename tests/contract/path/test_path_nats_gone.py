"""NATS goes and comes back under a fleet in which somebody else listens to everything."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bus_servers import RestartableServer

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks
from shared.runtime.tenure import TenureState
from shared.text.tokenizer import Tokenizer

from .engines import MODEL, engine
from .fleet import Fleet, FleetShape, colocated, eventually, token_ids
from .stream import Stream

pytestmark = pytest.mark.timeout(60)

PROMPT = list(range(40))
ANSWERED_WITHIN_S = 5.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestartableServer]:
    process = RestartableServer(tmp_path)
    await process.start()
    yield process
    await process.stop()


@pytest.fixture
async def fleet(server: RestartableServer, tokenizer: Tokenizer) -> AsyncIterator[Fleet]:
    shape = FleetShape(make_prefill=engine, make_decode=lambda: engine(step_s=0.005))
    fleet = Fleet(server.url, MODEL, tokenizer, shape)
    await fleet.start()
    yield fleet
    await fleet.stop()


@pytest.fixture
async def monitor(server: RestartableServer) -> AsyncIterator[Bus]:
    """Hears everything: NATS tells nobody any more that nobody listens."""
    async with Tasks("monitor") as tasks:
        bus = await Bus.connect(BusSettings(url=server.url, reconnect_wait_s=0.01), name="monitor", spawn=tasks.start)
        await bus.listen(">", lambda _subject, _data: None)
        await bus.flush()
        yield bus
        await bus.close()


async def test_a_question_that_meets_no_scheduler_yet_is_asked_again(
    fleet: Fleet, server: RestartableServer, monitor: Bus
):
    """The scheduler is the last to be back: what the gateway asks before that reaches only the monitor."""
    scheduler = fleet.schedulers["s0"]._bus
    assert scheduler is not None
    scheduler._client._reconnect_to_server_handler = lambda servers, _info: (servers[0], 1.5)
    await server.stop()
    await eventually(lambda: not fleet.bus.connected and not scheduler.connected and not monitor.connected)
    await server.start()
    await eventually(lambda: fleet.bus.connected and monitor.connected)
    assert not scheduler.connected

    began_s = time.monotonic()
    deltas = await fleet.generate(PROMPT, 16)
    assert token_ids(deltas) == colocated(engine(), PROMPT, 16)[0]
    assert time.monotonic() - began_s < ANSWERED_WITHIN_S


async def test_gone_for_all_and_soon_back_no_session_moves(fleet: Fleet, server: RestartableServer, clients: Tasks):
    """Longer than the lease: the worker stops, and asks whether its session is still its own."""
    stream = Stream(fleet, clients)
    await stream.has(20)
    [session] = fleet.sessions._table
    await server.stop()
    tenure = fleet.links("d0").tenure
    await eventually(lambda: tenure.state is TenureState.LAPSED)
    await server.start()
    await stream.is_unbroken()
    assert (session.epoch, session.moves) == (0, 0)


async def test_gone_for_long_sessions_are_dropped_and_placed_again(
    fleet: Fleet, server: RestartableServer, clients: Tasks
):
    stream = Stream(fleet, clients)
    await stream.has(20)
    await server.stop()
    tenure = fleet.links("d0").tenure
    await eventually(lambda: tenure.state is TenureState.FORFEITED)
    assert not fleet.sessions_on("d0")
    await server.start()
    await stream.is_unbroken()
