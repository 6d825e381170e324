"""The real model, bf16: workers are killed, and every stream says what it says when nothing happens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from stack import Stack, running_stack
from streams import streaming

from .conftest import Measured, Noted
from .scene import Scene, scene_of

pytestmark = pytest.mark.model

TOKENS = 64
RESUMED_WITHIN_S = 3.0
SHORT_TOKENS, LONG_TOKENS = 120, 900
SEEDED = {"temperature": 0.8, "top_p": 0.95, "seed": 11}


@pytest.fixture(scope="module")
def real(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers of each phase with the default model."""
    with running_stack(tmp_path_factory.mktemp("logs"), "--prefill", "2", "--decode", "2") as stack:
        yield stack


@pytest.fixture
async def scene(real: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(real, model_folder) as scene:
        yield scene


def requests(scene: Scene, prompt_tokens: int, first_seed: int) -> list[dict[str, Any]]:
    """Two that are greedy, and two that are sampled."""
    seeds = range(first_seed, first_seed + 4)
    return [{**scene.request(prompt_tokens, TOKENS, seed), **(SEEDED if seed % 2 else {})} for seed in seeds]


async def answers(scene: Scene, asked: list[dict[str, Any]]) -> tuple[list[list[int]], float]:
    """Their tokens when nothing happens, and how long the last one waited for its first."""
    began_s = time.monotonic()
    async with streaming(scene.stack.http_url, *asked) as streams:
        tokens = [await stream.whole() for stream in streams]
    return tokens, max(stream.moments_s[0] for stream in streams) - began_s


async def test_decode_is_killed_in_mid_stream(scene: Scene, measured: Measured):
    _, compute_s = await answers(scene, requests(scene, SHORT_TOKENS, first_seed=10))
    asked = requests(scene, SHORT_TOKENS, first_seed=0)
    async with streaming(scene.stack.http_url, *asked) as streams:
        for stream in streams:
            await stream.until(TOKENS // 2)
        killed_s = scene.kill(await scene.holder("decode"))
        tokens = [await stream.whole() for stream in streams]
    pause_s = max(stream.longest_pause_s(killed_s) for stream in streams)
    measured(pause_s)
    assert pause_s < RESUMED_WITHIN_S + 2 * compute_s
    assert tokens == (await answers(scene, asked))[0]


async def test_prefill_is_killed_in_mid_prompt(scene: Scene, measured: Measured, noted: Noted):
    _, compute_s = await answers(scene, requests(scene, LONG_TOKENS, first_seed=30))
    noted(f"{4} prompts of {LONG_TOKENS} tokens take {compute_s:.2f} s when nothing happens")
    asked = requests(scene, LONG_TOKENS, first_seed=20)
    chunks = len(scene.messages("baton.v1.kv.*.*.chunk"))
    async with streaming(scene.stack.http_url, *asked) as streams:
        await scene.message("baton.v1.kv.*.*.chunk", beyond=chunks)
        killed_s = scene.kill(await scene.holder("prefill"))
        tokens = [await stream.whole() for stream in streams]
    pause_s = max(stream.longest_pause_s(killed_s) for stream in streams)
    measured(pause_s)
    assert pause_s < RESUMED_WITHIN_S + 2 * compute_s
    assert tokens == (await answers(scene, asked))[0]
