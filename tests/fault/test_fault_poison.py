"""A prompt that ends two workers is quarantined, and the fleet lives; workers that are killed accuse nobody."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stack import Stack
from streams import streaming

from services.local.free_port import port_or_free
from shared.runtime.process import die_with_parent

from .conftest import Measured
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

PREFILL_CRASH, DECODE_CRASH, DECODE_HANG = 2001, 2002, 2003
STALL_S = 1.0
REFUSED_WITHIN_S = 0.5


@pytest.fixture(scope="module")
def poisonable(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers of each phase, whose engines die of one token each, or hang at another."""
    settings = {
        "PREFILL_FAKE_CRASH_TOKEN": str(PREFILL_CRASH),
        "DECODE_FAKE_CRASH_TOKEN": str(DECODE_CRASH),
        "DECODE_FAKE_HANG_TOKEN": str(DECODE_HANG),
        "ENGINE_STALL_S": str(STALL_S),
        "GATEWAY_ATTEMPTS": "10",
    }
    with fleet(tmp_path_factory.mktemp("logs"), "--prefill", "2", "--decode", "2", **settings) as stack:
        yield stack


@pytest.fixture
async def scene(poisonable: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(poisonable, model_folder) as scene:
        yield scene


@pytest.fixture
def other_gateway(poisonable: Stack) -> Iterator[str]:
    """The address of a second gateway of the same fleet."""
    port = port_or_free("127.0.0.1", 0)
    command = [sys.executable, "-m", "services.cli", "gateway", "--id", "other", "--nats", poisonable.nats_url]
    with subprocess.Popen([*command, "--port", str(port)], preexec_fn=die_with_parent()) as process:  # noqa: PLW1509
        yield f"http://127.0.0.1:{port}"
        process.terminate()


async def refusal(http_url: str, request: dict[str, Any]) -> tuple[int, str]:
    """Status and code of the answer to `request`."""
    async with aiohttp.ClientSession() as http, http.post(f"{http_url}/v1/completions", json=request) as answer:
        return answer.status, (await answer.json())["error"]["code"]


def deaths(scene: Scene, role: str) -> int:
    return sum(len(boots) - 1 for worker, boots in scene.beats.boots.items() if worker.startswith(role))


@pytest.mark.parametrize(("role", "token"), [("prefill", PREFILL_CRASH), ("decode", DECODE_CRASH)])
async def test_after_two_workers_it_is_refused_everywhere(
    scene: Scene, other_gateway: str, measured: Measured, role: str, token: int
):
    await scene.beats.until_all(lambda beats: beats.get("other", {}).get("state") == "ready")
    bad = {**scene.request(20, 20), "prompt": [1, token, 3]}
    async with scene.streams(*(scene.request(20, 600, seed) for seed in range(6))) as streams:
        for stream in streams:
            await stream.until(20)
        asked_s = time.monotonic()
        assert await refusal(scene.stack.http_url, bad) == (422, "quarantined")
    measured(max(stream.longest_pause_s(asked_s) for stream in streams))
    for url in (scene.stack.http_url, other_gateway):
        asked_s = time.monotonic()
        assert await refusal(url, bad) == (422, "quarantined")
        assert time.monotonic() - asked_s < REFUSED_WITHIN_S
    await scene.at_rest()
    assert deaths(scene, role) == 2


async def test_one_that_makes_engines_hang_is_refused_too(scene: Scene, measured: Measured):
    bad = {**scene.request(20, 20), "prompt": [1, DECODE_HANG, 3]}
    async with scene.streams(*(scene.request(20, 900, seed) for seed in range(4))) as streams:
        for stream in streams:
            await stream.until(20)
        hung_s = time.monotonic()
        assert await refusal(scene.stack.http_url, bad) == (422, "quarantined")
    measured(max(stream.longest_pause_s(hung_s) for stream in streams))
    await scene.at_rest()
    assert deaths(scene, "decode") == 2


async def test_workers_that_are_killed_one_after_the_other_accuse_nobody(scene: Scene):
    requests = [scene.request(100, 500, seed) for seed in range(16)]
    async with streaming(scene.stack.http_url, *requests) as streams:
        for worker in ("decode-0", "prefill-0", "decode-1", "prefill-1", "decode-0"):
            await scene.beats.until(lambda beats, worker=worker: beats[worker]["state"] == "ready")
            await streams[0].until(len(streams[0].token_ids) + 5)
            scene.kill(worker)
    for request, stream in zip(requests, streams, strict=True):
        assert await stream.whole() == scene.undisturbed(request)
