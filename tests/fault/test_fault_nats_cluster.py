"""One node of a NATS cluster of three is killed, the one all processes are connected to: they move to the others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_nodes import NatsNode, cluster_of
from stack import Stack

from .conftest import Measured
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

GONE_S = 2.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsNode]]:
    with cluster_of(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def stack(nodes: list[NatsNode], model_folder: Path, log_dir: Path) -> Iterator[Stack]:
    """Told of the first node only: of the others they know from it."""
    with fleet(log_dir, "--prefill", "2", "--decode", "2", "--nats", nodes[0].url) as stack:
        yield stack


@pytest.fixture
async def scene(stack: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(stack, model_folder) as scene:
        yield scene


async def test_no_request_fails(scene: Scene, nodes: list[NatsNode], log_dir: Path, measured: Measured):
    running = [scene.request(100, 300, seed) for seed in range(4)]
    prefilling = [scene.request(800, 20, seed) for seed in range(10, 14)]
    late = [scene.request(20, 20, seed) for seed in range(20, 24)]
    async with scene.streams(*running) as streams:
        for stream in streams:
            await stream.until(20)
        async with scene.streams(*prefilling):
            await scene.message("baton.v1.kv.*.*.chunk")
            gone_s = asyncio.get_running_loop().time()
            nodes[0].kill()
            async with scene.streams(*late):
                await asyncio.sleep(GONE_S)
                nodes[0].start()
    measured(max(stream.longest_pause_s(gone_s) for stream in streams))
    assert moved(log_dir) == {"gateway", "scheduler", "prefill", "decode", "prefill kv", "decode kv"}


def moved(log_dir: Path) -> set[str]:
    """The kinds of connections that say they are connected again."""
    again = re.compile(r"NATS \((\w+) \S+?( kv)?\): connected again")
    lines = "".join(path.read_text() for path in log_dir.glob("*.log"))
    return {f"{role}{kv}" for role, kv in again.findall(lines)}
