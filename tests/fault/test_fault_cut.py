"""A decode worker is cut off from NATS: with a reset, or without a word. Its sessions move; it lets go by itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgpack
import pytest
from beats import is_idle
from cut_proxy import CutProxy
from stack import Stack

from shared.runtime.process import die_with_parent

from .conftest import Measured
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

FAR = "decode-far"
CUT_S = 8.0
RESUMED_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def stack(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker of each phase; `FAR` comes beside them."""
    with fleet(tmp_path_factory.mktemp("logs")) as stack:
        yield stack


@pytest.fixture
async def way(stack: Stack) -> AsyncIterator[CutProxy]:
    """The way of `FAR` to NATS."""
    port = urlsplit(stack.nats_url).port
    assert port is not None
    proxy = CutProxy(port)
    await proxy.start()
    yield proxy
    await proxy.close()


@asynccontextmanager
async def far_decode(nats_url: str) -> AsyncIterator[None]:
    command = [sys.executable, "-m", "services.cli", "decode", "--id", FAR, "--engine", "fake", "--nats", nats_url]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent())
    try:
        yield
    finally:
        process.terminate()
        assert await process.wait() == 0


@pytest.fixture
async def scene(stack: Stack, way: CutProxy, model_folder: Path) -> AsyncIterator[Scene]:
    async with far_decode(way.url), scene_of(stack, model_folder) as scene:
        await scene.beats.until(lambda beats: FAR in beats)
        yield scene


@pytest.mark.parametrize("how", ["cut", "swallow"])
async def test_its_sessions_are_elsewhere_and_it_comes_back_with_nothing(
    scene: Scene, way: CutProxy, how: str, measured: Measured
):
    requests = [scene.request(20, 1200, seed) for seed in range(4)]
    async with scene.streams(*requests) as streams:
        for stream in streams:
            await stream.until(20)
        await scene.beats.until(lambda beats: beats[FAR]["sessions"] == 2)
        boot = scene.beats.last[FAR]["boot"]
        cut_s = asyncio.get_running_loop().time()
        getattr(way, how)()
        await asyncio.sleep(CUT_S)
        before = len(scene.messages("baton.v1.tokens.*"))
        way.heal()
        await scene.beats.until(lambda beats: beats[FAR]["boot"] != boot)
        assert is_idle(scene.beats.last[FAR])
        assert all(len(stream.token_ids) < 1200 for stream in streams)
    late = [msgpack.unpackb(message.data) for message in scene.messages("baton.v1.tokens.*")[before:]]
    assert FAR not in {batch["worker"] for batch in late}
    pause_s = max(stream.longest_pause_s(cut_s) for stream in streams)
    measured(pause_s)
    assert pause_s < RESUMED_WITHIN_S
