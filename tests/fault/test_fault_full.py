"""No room: the next worker is asked, then the queue, then the client is told when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from stack import Stack

from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

KV_TOKENS = 1000
KV_TOKEN_BYTES = 64


@pytest.fixture(scope="module")
def small(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two decodes with KV memory for a thousand tokens each, prefills and a scheduler with short queues."""
    limits = {
        "DECODE_KV_BYTES": str(KV_TOKENS * KV_TOKEN_BYTES),
        "PREFILL_QUEUE_LIMIT_TOKENS": "1000",
        "SCHEDULER_QUEUE_LIMIT": "20",
    }
    with fleet(tmp_path_factory.mktemp("logs"), "--prefill", "2", "--decode", "2", **limits) as stack:
        yield stack


@pytest.fixture
async def scene(small: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(small, model_folder) as scene:
        yield scene


async def test_what_fits_no_worker_now_waits_for_one(scene: Scene):
    async with scene.streams(*(scene.request(500, 100, seed) for seed in range(5))):
        pass


async def test_three_hundred_at_once_are_answered_or_told_when_to_come_again(scene: Scene):
    async def ask(http: aiohttp.ClientSession, seed: int) -> tuple[int, str | None]:
        body = {**scene.request(50, 20, seed), "ignore_eos": True, "temperature": 0}
        async with http.post(f"{scene.stack.http_url}/v1/completions", json=body) as answer:
            await answer.read()
            return answer.status, answer.headers.get("Retry-After")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        answers = await asyncio.gather(*(ask(http, seed) for seed in range(300)))
    statuses = {status for status, _ in answers}
    assert statuses <= {200, 429, 503}
    assert 200 in statuses
    assert all(retry_after for status, retry_after in answers if status != 200)
