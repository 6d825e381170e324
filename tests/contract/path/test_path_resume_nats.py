"""Resumable generations on a NATS server that has no JetStream, or loses what it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from bus_servers import RestartableServer
from nats_nodes import NatsNode, cluster_of
from nats_without_jetstream import ServerWithoutJetStream

from services.gateway.sessions.registry import KeepSettings
from shared.bus.memory_stream import StreamLimits
from shared.errors import ResumeUnavailable
from shared.text.tokenizer import Tokenizer

from .engines import MODEL, engine
from .fleet import GREEDY, Fleet, FleetShape, colocated, eventually, token_ids
from .gateways import Gateway
from .prompts import prompt

pytestmark = pytest.mark.timeout(60)

TOKENS = 120
PROMPT = prompt(40)


@pytest.fixture
def server(tmp_path: Path) -> RestartableServer:
    return RestartableServer(tmp_path)


@pytest.fixture
async def fleet(server: RestartableServer, tokenizer: Tokenizer) -> AsyncIterator[Fleet]:
    await server.start()
    shape = FleetShape(make_prefill=engine, make_decode=lambda: engine(step_s=0.02))
    fleet = Fleet(server.url, MODEL, tokenizer, shape)
    await fleet.start()
    yield fleet
    await fleet.stop()
    await server.stop()


async def gateway_of(fleet: Fleet, name: str) -> Gateway:
    gateway = Gateway(fleet, name, KeepSettings(interval_s=0.05))
    await gateway.start()
    return gateway


@pytest.mark.parametrize("state", ["running", "ended", "read to its end"])
async def test_a_session_is_in_the_journal_again_after_nats_was_restarted(
    server: RestartableServer, fleet: Fleet, state: str
):
    """What was read to its end may have been lost on the way to the client."""
    first, second = await gateway_of(fleet, "first"), await gateway_of(fleet, "second")
    ended = state != "running"
    tokens = 20 if ended else TOKENS
    request = msgspec.structs.replace(fleet.generating(PROMPT, tokens), resumable=True)
    async with first.sessions.generate(request) as generation:
        had = [await anext(aiter(generation))]
        if state == "read to its end":
            await anext(delta async for delta in generation if delta.finish is not None)
    if ended:
        await eventually(lambda: not first.sessions)
    await server.stop()
    await server.start()
    await eventually(lambda: first.bus.connected and second.bus.connected)
    assert len(first.sessions) == (not ended)
    with pytest.raises(ResumeUnavailable) as unknown:
        await second.sessions.resume("0" * 32, 0)
    assert unknown.value.retry_after_ms
    rest = []
    while not rest:
        try:
            resumed = await second.sessions.resume(generation.id, len(token_ids(had)))
        except ResumeUnavailable:
            await asyncio.sleep(0.05)
            continue
        async with resumed.running as going_on:
            rest = [delta async for delta in going_on if not delta.known]
    assert token_ids(had + rest) == colocated(engine(), PROMPT, tokens, GREEDY)[0]
    await eventually(lambda: not first.sessions)
    for gateway in (first, second):
        await gateway.stop()


async def test_a_request_waits_for_a_nats_server_that_is_being_restarted(server: RestartableServer, fleet: Fleet):
    request = msgspec.structs.replace(fleet.generating(PROMPT, 5), resumable=True)

    async def answered() -> int:
        async with fleet.sessions.generate(request) as generation:
            return len(token_ids([delta async for delta in generation]))

    assert await answered() == 5
    await server.stop()
    await eventually(lambda: not fleet.bus.connected)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(answered())
        await server.start()
    assert waiting.result() == 5


class TestInACluster:
    @pytest.fixture
    def nodes(self, tmp_path: Path) -> Iterator[list[NatsNode]]:
        with cluster_of(tmp_path) as nodes:
            yield nodes

    @pytest.fixture
    async def fleet(self, nodes: list[NatsNode], tokenizer: Tokenizer) -> AsyncIterator[Fleet]:
        shape = FleetShape(make_prefill=engine, make_decode=lambda: engine(step_s=0.02))
        fleet = Fleet(nodes[1].url, MODEL, tokenizer, shape)
        await fleet.start()
        yield fleet
        await fleet.stop()

    @pytest.mark.parametrize("dies", [0, 2])
    async def test_a_journal_with_replicas_outlives_a_node(self, fleet: Fleet, nodes: list[NatsNode], dies: int):
        limits = StreamLimits(max_bytes=1 << 20, max_age_s=60, replicas=3)
        first, second = [Gateway(fleet, name, KeepSettings(limits=limits)) for name in ("first", "second")]
        await first.start()
        await second.start()
        request = msgspec.structs.replace(fleet.generating(PROMPT, TOKENS), resumable=True)
        async with first.sessions.generate(request) as generation:
            had = [await anext(aiter(generation))]
            nodes[dies].kill()
            await first.die()
        resumed = await second.sessions.resume(generation.id, len(token_ids(had)))
        async with resumed.running as going_on:
            rest = [delta async for delta in going_on if not delta.known]
        assert token_ids(had + rest) == colocated(engine(), PROMPT, TOKENS, GREEDY)[0]
        async with second.sessions.generate(request) as generation:
            assert len(token_ids([delta async for delta in generation])) == TOKENS
        await second.stop()


class TestWithoutJetStream:
    @pytest.fixture
    def server(self, tmp_path: Path) -> RestartableServer:
        return ServerWithoutJetStream(tmp_path)

    async def test_a_resumable_request_is_refused_before_anything_runs(self, fleet: Fleet):
        request = fleet.generating(PROMPT, 5)
        for _ in range(2):
            with pytest.raises(ResumeUnavailable, match="has no JetStream") as caught:
                async with fleet.sessions.generate(msgspec.structs.replace(request, resumable=True)):
                    pass
            assert (caught.value.param, caught.value.http_status) == ("resumable", 503)
        with pytest.raises(ResumeUnavailable):
            await fleet.sessions.resume("0" * 32, 0)
        assert not fleet.sessions
        async with fleet.sessions.generate(request) as generation:
            assert len(token_ids([delta async for delta in generation])) == 5
