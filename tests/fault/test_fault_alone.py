"""One worker of each phase, and one seat: what dies is missed until `baton up` has started it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import msgpack
import pytest
from stack import Stack

from .conftest import Measured
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

FREED_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def one_seat(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One prefill, and one decode that holds one session."""
    with fleet(tmp_path_factory.mktemp("logs"), DECODE_BATCH_LIMIT="1", DECODE_CLAIM_LEASE_S="3") as stack:
        yield stack


@pytest.fixture
async def scene(one_seat: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(one_seat, model_folder) as scene:
        yield scene


@pytest.mark.parametrize("worker", ["decode-0", "prefill-0"])
async def test_a_stream_goes_on_when_its_only_worker_is_back(scene: Scene, worker: str, measured: Measured):
    request = scene.request(300, 120)
    async with scene.streams(request) as [stream]:
        if worker == "decode-0":
            await stream.until(40)
        else:
            await scene.message("baton.v1.kv.*.*.chunk")
        killed_s = scene.kill(worker)
    measured(stream.longest_pause_s(killed_s))


async def test_a_running_stream_does_not_miss_the_scheduler(scene: Scene):
    moves = await scene.moves()
    async with scene.streams(scene.request(20, 200)) as [stream]:
        await stream.until(20)
        scene.kill("scheduler-0")
    assert await scene.moves() == moves


async def test_waiting_requests_are_placed_once_by_the_restarted_scheduler(scene: Scene):
    async with scene.streams(*(scene.request(20, 150, seed) for seed in range(4))):
        await scene.beats.until_all(lambda beats: beats["scheduler-0"]["sessions"] == 3)
        scene.kill("scheduler-0")
    runs = Counter(msgpack.unpackb(order.data)["session"] for order in scene.messages("baton.v1.prefill.*.run"))
    assert sorted(runs.values()) == [1, 1, 1, 1]


@pytest.mark.parametrize("question", ["scheduler.place", "decode.*.claim", "prefill.*.run"])
async def test_a_scheduler_that_dies_as_it_places_leaves_nothing_behind(scene: Scene, question: str):
    async with scene.streams(scene.request(300, 20)):
        await scene.message(f"baton.v1.{question}")
        scene.kill("scheduler-0")


async def test_the_sessions_of_a_dead_gateway_are_freed(scene: Scene):
    request = {"type": "generate", "id": "a", "ignore_eos": True, **scene.request(20, 4000)}
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{scene.stack.http_url}/v1/stream") as socket:
        await socket.send_json(request)
        await scene.holder("decode")
        scene.kill("gateway-0")
        async with asyncio.timeout(FREED_WITHIN_S):
            await scene.beats.at_rest()
