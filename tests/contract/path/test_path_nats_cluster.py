"""A NATS cluster of three loses a node, under one worker or under everybody: all connections move, streams go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_nodes import NatsNode, cluster_of

from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer

from .engines import MODEL, engine
from .fleet import GATEWAY, Fleet, FleetShape, eventually
from .stream import Stream

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NatsNode]]:
    with cluster_of(tmp_path) as nodes:
        yield nodes


@pytest.fixture(params=[(), ("d0",), ("p0",), (GATEWAY,)], ids=["all", "decode", "prefill", "gateway"])
async def fleet(nodes: list[NatsNode], tokenizer: Tokenizer, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """The first node has only whom is named, or all."""
    shape = FleetShape(
        make_prefill=lambda: engine(prefill_token_s=0.002),
        make_decode=lambda: engine(step_s=0.005),
        ways=dict.fromkeys(request.param, nodes[0].url),
    )
    fleet = Fleet(nodes[1 if request.param else 0].url, MODEL, tokenizer, shape)
    await fleet.start()
    yield fleet
    await fleet.stop()


async def test_streams_go_on_and_every_connection_moves(fleet: Fleet, nodes: list[NatsNode], clients: Tasks):
    there = next(iter(fleet.shape.ways), "d0")
    control = fleet.bus if there == GATEWAY else fleet.links(there).control
    await eventually(lambda: len(control._client._server_pool) == len(nodes))
    if there != GATEWAY:
        kv = fleet.links(there).kv._link
        await eventually(lambda: len(kv._servers._pool) == len(nodes))
    decoding = Stream(fleet, clients)
    await decoding.has(20)
    prefilling = Stream(fleet, clients, max_tokens=30, prompt_tokens=400)
    await eventually(lambda: fleet.sessions_on("p0") == 1)
    sessions = list(fleet.sessions._table)

    nodes[0].kill()
    await decoding.is_unbroken()
    await prefilling.is_unbroken()
    assert control.reconnects == 1
    assert control._client.connected_url.port != nodes[0].port
    if there != GATEWAY:
        assert kv.stream is not None
        assert kv.stream.address.port != nodes[0].port
    # Beats are quick here: a worker that first dials the dead node again may be taken for dead.
    assert max(session.moves for session in sessions) <= 1
    assert await fleet.generate(list(range(40)), 16)
