"""SIGTERM: every process finishes what it has, or leaves it to others when the time is up, and exits with 0."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from stack import Stack
from streams import streaming

from services.local.free_port import port_or_free
from shared.runtime.process import die_with_parent

from .conftest import Measured
from .scene import PACE, Scene

pytestmark = pytest.mark.model

STOPS_WITHIN_S = 10.0

Leaver = subprocess.Popen[bytes]
Leave = Callable[..., Leaver]


@pytest.fixture
def join(two_by_two: Stack) -> Iterator[Leave]:
    """Starts one more process, called `leaver` and not kept alive by anyone."""
    joined: list[Leaver] = []

    def start(role: str, *arguments: str, drain_timeout_s: float = 30.0) -> Leaver:
        command = [sys.executable, "-m", "services.cli", role, "--id", "leaver", "--nats", two_by_two.nats_url]
        command += ["--drain-timeout-s", str(drain_timeout_s), *arguments]
        environ = {**os.environ, **{f"BATON_{name}": value for name, value in PACE.items()}}
        joined.append(subprocess.Popen(command, env=environ, preexec_fn=die_with_parent()))  # noqa: PLW1509
        return joined[-1]

    yield start
    for process in joined:
        process.kill()
        process.wait()


async def test_running_streams_finish(scene: Scene, join: Leave):
    leaver = join("decode", "--engine", "fake")
    await scene.beats.until_all(lambda beats: "leaver" in beats)
    moves = await scene.moves()
    async with scene.streams(*(scene.request(20, 200, seed) for seed in range(6))) as streams:
        for stream in streams:
            await stream.until(20)
        assert scene.beats.last["leaver"]["sessions"]
        leaver.terminate()
    assert leaver.wait(STOPS_WITHIN_S) == 0
    assert await scene.moves() == moves


async def test_streams_that_last_too_long_move(scene: Scene, join: Leave, measured: Measured):
    leaver = join("decode", "--engine", "fake", drain_timeout_s=0.2)
    await scene.beats.until_all(lambda beats: "leaver" in beats)
    moves = await scene.moves()
    async with scene.streams(*(scene.request(20, 400, seed) for seed in range(6))) as streams:
        for stream in streams:
            await stream.until(20)
        held = scene.beats.last["leaver"]["sessions"]
        leaver.terminate()
        assert leaver.wait(STOPS_WITHIN_S) == 0
    measured(max(stream.longest_pause_s(stream.moments_s[19]) for stream in streams))
    assert held
    assert await scene.moves() == moves + held


async def test_prompts_that_last_too_long_move(scene: Scene, join: Leave):
    leaver = join("prefill", "--engine", "fake", drain_timeout_s=0.2)
    await scene.beats.until_all(lambda beats: "leaver" in beats)
    moves = await scene.moves()
    # Prompts of no other test: cached ones would go to the workers that have them, and not last.
    async with scene.streams(*(scene.request(500, 10, seed) for seed in range(900, 906))):
        await scene.beats.until(lambda beats: beats["leaver"]["sessions"] >= 2)
        leaver.terminate()
        assert leaver.wait(STOPS_WITHIN_S) == 0
    assert await scene.moves() > moves


async def test_a_scheduler_leaves_new_requests_to_the_other_one(scene: Scene, join: Leave):
    leaver = join("scheduler")
    await scene.beats.until_all(lambda beats: "leaver" in beats)
    async with scene.streams(*(scene.request(100, 20, seed) for seed in range(4))):
        leaver.terminate()
        async with scene.streams(*(scene.request(20, 20, seed) for seed in range(10, 20))):
            pass
    assert leaver.wait(STOPS_WITHIN_S) == 0


async def test_a_gateway_tells_the_clients_it_cannot_finish(scene: Scene, join: Leave):
    port = port_or_free("127.0.0.1", 0)
    leaver = join("gateway", "--port", str(port), drain_timeout_s=2.0)
    await scene.beats.until_all(lambda beats: beats.get("leaver", {}).get("state") == "ready")
    short, long = scene.request(20, 80), scene.request(20, 4000)
    async with streaming(f"http://127.0.0.1:{port}", short, long) as [finishing, lasting]:
        for stream in (finishing, lasting):
            await stream.until(5)
        leaver.terminate()
    assert await finishing.whole() == scene.undisturbed(short)
    assert (lasting.last["type"], lasting.last["code"]) == ("error", "draining")
    assert lasting.last["retry_after_ms"]
    assert leaver.wait(STOPS_WITHIN_S) == 0
