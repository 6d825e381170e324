"""A decode worker is frozen, taken for dead, and wakes up: it notices by its own clock, says nothing, and lets go."""

from __future__ import annotations

import asyncio
import signal

import msgpack
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
        boot = scene.beats.last[frozen]["boot"]
        frozen_s = scene.kill(frozen, signal.SIGSTOP)
        try:
            await asyncio.sleep(FROZEN_S)
            before = len(scene.messages("baton.v1.tokens.*"))
        finally:
            scene.kill(frozen, signal.SIGCONT)
        await scene.beats.until(lambda beats: beats[frozen]["boot"] != boot)
        assert all(len(stream.token_ids) < 1200 for stream in streams)
    late = [msgpack.unpackb(message.data) for message in scene.messages("baton.v1.tokens.*")[before:]]
    # What it was writing when it was frozen may still go out.
    assert sum(batch["worker"] == frozen for batch in late) <= 1
    pause_s = max(stream.longest_pause_s(frozen_s) for stream in streams)
    measured(pause_s)
    assert pause_s < RESUMED_WITHIN_S
