"""A prefill worker is killed at every stage of its prompts: the other one takes them over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from .conftest import Measured
from .scene import PREFILL_TOKEN_S, Scene

pytestmark = pytest.mark.model

PROMPT_TOKENS = 400
TAKEN_OVER_WITHIN_S = 3.0


async def prompts_wait(scene: Scene) -> None:
    await scene.holder("prefill", sessions=2)


async def chunks_have_gone(scene: Scene) -> None:
    await scene.message("baton.v1.kv.*.*.chunk")


async def first_token_is_out(scene: Scene) -> None:
    """The last chunk goes now, and the manifest after it."""
    await scene.message("baton.v1.tokens.*")


@pytest.mark.parametrize("stage", [prompts_wait, chunks_have_gone, first_token_is_out])
async def test_the_other_one_takes_over(scene: Scene, stage: Callable[[Scene], Awaitable[None]], measured: Measured):
    requests = [scene.request(PROMPT_TOKENS, 40, seed) for seed in range(3)]
    async with scene.streams(*requests) as streams:
        await stage(scene)
        killed_s = scene.kill(await scene.holder("prefill"))
        for stream in streams:
            await stream.whole()
    recompute_s = 3 * PREFILL_TOKEN_S * PROMPT_TOKENS
    pause_s = max(stream.longest_pause_s(killed_s) for stream in streams)
    measured(pause_s)
    assert pause_s < TAKEN_OVER_WITHIN_S + 2 * recompute_s
