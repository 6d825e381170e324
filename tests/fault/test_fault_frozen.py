"""A decode worker is frozen, taken for dead, and wakes up: what it still says is not believed, and it lets go."""

from __future__ import annotations

import asyncio
import signal

import pytest

from .conftest import Measured
from .scene import Scene

pytestmark = pytest.mark.model

FROZEN_S = 10.0
RESUMED_WITHIN_S = 5.0


async def test_its_sessions_are_elsewhere_when_it_wakes(scene: Scene, measured: Measured):
    async with scene.streams(*(scene.request(20, 1200, seed) for seed in range(2))) as streams:
        for stream in streams:
            await stream.until(20)
        frozen = await scene.holder("decode")
        frozen_s = scene.kill(frozen, signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_S)
        finally:
            scene.kill(frozen, signal.SIGCONT)
        assert all(len(stream.token_ids) < 1200 for stream in streams)
    pause_s = max(stream.longest_pause_s(frozen_s) for stream in streams)
    measured(pause_s)
    assert pause_s < RESUMED_WITHIN_S
