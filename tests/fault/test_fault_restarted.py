"""A worker that is back under its name before anyone missed it: what it held is gone all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .conftest import Measured
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

BEAT_S = 4.0


@pytest.fixture
async def scene(model_folder: Path, tmp_path: Path) -> AsyncIterator[Scene]:
    with fleet(tmp_path, BEAT_INTERVAL_S=str(BEAT_S)) as stack:
        async with scene_of(stack, model_folder) as scene:
            yield scene


async def test_its_sessions_move_on_at_its_first_new_beat(scene: Scene, measured: Measured):
    async with scene.streams(scene.request(20, 100)) as [stream]:
        await stream.until(40)
        killed_s = scene.kill("decode-0")
        await stream.whole()
    pause_s = stream.longest_pause_s(killed_s)
    measured(pause_s)
    assert pause_s < 2 * BEAT_S
