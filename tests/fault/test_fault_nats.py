"""The NATS server dies and comes back: streams pause and go on, or end by their deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_nodes import NatsNode
from stack import Stack
from streams import streaming

from .conftest import Measured
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

DEADLINE_S = 15.0
ANSWERED_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsNode]:
    server = NatsNode(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def stack(server: NatsNode, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two prefill and two decode workers on `server`; requests have `DEADLINE_S`."""
    arguments = ("--prefill", "2", "--decode", "2", "--nats", server.url)
    with fleet(tmp_path_factory.mktemp("logs"), *arguments, GATEWAY_REQUEST_TIMEOUT_S=str(DEADLINE_S)) as stack:
        yield stack


@pytest.fixture
async def scene(stack: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(stack, model_folder) as scene:
        yield scene


async def test_two_seconds_fail_no_request(scene: Scene, server: NatsNode, measured: Measured):
    running = [scene.request(100, 300, seed) for seed in range(4)]
    prefilling = [scene.request(800, 20, seed) for seed in range(10, 14)]
    late = [scene.request(20, 20, seed) for seed in range(20, 24)]
    async with scene.streams(*running) as streams:
        for stream in streams:
            await stream.until(20)
        async with scene.streams(*prefilling):
            await scene.message("baton.v1.kv.*.*.chunk")
            server.kill()
            async with scene.streams(*late):
                await asyncio.sleep(2.0)
                server.start()
                back_s = time.monotonic()
    measured(max(stream.longest_pause_s(back_s) for stream in streams))


async def test_after_twenty_seconds_requests_have_ended_and_the_service_recovers(scene: Scene, server: NatsNode):
    """The scene listens to what is asked of schedulers, so NATS does not tell that none is back yet."""
    started_s = time.monotonic()
    requests = [scene.request(20, 4000, seed) for seed in range(4)]
    async with streaming(scene.stack.http_url, *requests) as streams:
        for stream in streams:
            await stream.until(20)
        await server.gone_for(20.0)
        assert [stream.last.get("code") for stream in streams] == ["deadline_exceeded"] * 4
        assert max(stream.ended_s for stream in streams) - started_s < DEADLINE_S + 1.0
    back_s = time.monotonic()
    async with scene.streams(scene.request(100, 20)):
        pass
    assert time.monotonic() - back_s < ANSWERED_WITHIN_S
