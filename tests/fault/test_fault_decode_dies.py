"""A decode worker is killed at every stage of a session: the other one goes on, the client sees nothing but a pause."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from streams import Stream

from .conftest import Measured
from .scene import PREFILL_TOKEN_S, Scene

pytestmark = pytest.mark.model

RESUMED_WITHIN_S = 3.0

Stage = Callable[[Scene, Stream], Awaitable[object]]


async def claimed(scene: Scene, stream: Stream) -> None:
    await scene.holder("decode")


async def importing(scene: Scene, stream: Stream) -> None:
    await scene.message("baton.v1.kv.*.*.chunk")


async def one_token(scene: Scene, stream: Stream) -> None:
    await stream.until(1)


async def hundred_tokens(scene: Scene, stream: Stream) -> None:
    await stream.until(100)


@pytest.mark.parametrize("stage", [claimed, importing, one_token, hundred_tokens])
async def test_the_other_one_goes_on(scene: Scene, stage: Stage, measured: Measured):
    request = scene.request(300, 160)
    async with scene.streams(request) as [stream]:
        await stage(scene, stream)
        killed_s = scene.kill(await scene.holder("decode"))
        await stream.whole()
    pause_s = stream.longest_pause_s(killed_s)
    measured(pause_s)
    assert pause_s < RESUMED_WITHIN_S + 2 * PREFILL_TOKEN_S * (300 + 160)
