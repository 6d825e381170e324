"""SIGTERM: a decode worker finishes what it has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from stack import Stack

from shared.runtime.process import die_with_parent

from .scene import PACE, Scene

pytestmark = pytest.mark.model


@pytest.fixture
def leaver(two_by_two: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """One more decode worker, not kept alive by anyone."""
    command = [sys.executable, "-m", "services.cli", "decode", "--id", "leaver", "--engine", "fake"]
    environ = {**os.environ, **{f"BATON_{name}": value for name, value in PACE.items()}}
    tied = die_with_parent()
    with subprocess.Popen([*command, "--nats", two_by_two.nats_url], env=environ, preexec_fn=tied) as process:  # noqa: PLW1509
        yield process
        process.kill()


async def test_running_streams_finish_and_the_exit_code_is_0(scene: Scene, leaver: subprocess.Popen[bytes]):
    await scene.beats.until_all(lambda beats: "leaver" in beats)
    moves = await scene.moves()
    async with scene.streams(*(scene.request(20, 200, seed) for seed in range(6))) as streams:
        for stream in streams:
            await stream.until(20)
        assert scene.beats.last["leaver"]["sessions"]
        leaver.terminate()
    assert leaver.wait(20) == 0
    assert await scene.moves() == moves
