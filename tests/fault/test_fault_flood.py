"""A thousand requests at once: each is answered or told when to come again, and those that are lose no speed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from stack import Stack

from .conftest import Noted
from .scene import Scene, fleet, scene_of

pytestmark = pytest.mark.model

REQUESTS = 1000
WAITING = 300
AT_EASE = 48
PROMPT_TOKENS, TOKENS = 50, 20
GOODPUT_KEPT = 0.7
GROWTH_LIMIT_BYTES = 96 << 20


@pytest.fixture(scope="module")
def quick(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two workers of each phase; so many requests may wait."""
    settings = {"FAKE_PREFILL_TOKEN_S": "0.0001", "FAKE_STEP_S": "0.01", "SCHEDULER_QUEUE_LIMIT": str(WAITING)}
    with fleet(tmp_path_factory.mktemp("logs"), "--prefill", "2", "--decode", "2", **settings) as stack:
        yield stack


@pytest.fixture
async def scene(quick: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(quick, model_folder) as scene:
        yield scene


class Crowd:
    """Clients that ask once each, `at_once` at a time."""

    def __init__(self, scene: Scene, at_once: int) -> None:
        self._scene = scene
        self._seats = asyncio.Semaphore(at_once)
        self.statuses: Counter[int] = Counter()
        self.retry_after_s: list[int] = []
        self.last_answer_s = 0.0

    async def ask(self, requests: int) -> float:
        """Returns tokens per second of those that were answered, from the first question to the last answer."""
        connector = aiohttp.TCPConnector(limit=0)
        began_s = time.monotonic()
        async with aiohttp.ClientSession(connector=connector) as http:
            await asyncio.gather(*(self._one(http, seed) for seed in range(requests)))
        return self.statuses[200] * TOKENS / (self.last_answer_s - began_s)

    async def _one(self, http: aiohttp.ClientSession, seed: int) -> None:
        body = {**self._scene.request(PROMPT_TOKENS, TOKENS, seed), "ignore_eos": True, "temperature": 0}
        async with self._seats, http.post(f"{self._scene.stack.http_url}/v1/completions", json=body) as answer:
            said = await answer.json()
        self.statuses[answer.status] += 1
        if answer.status == 200:
            assert said["usage"]["completion_tokens"] == TOKENS
            self.last_answer_s = time.monotonic()
        else:
            self.retry_after_s.append(int(answer.headers["Retry-After"]))


def memory_bytes(stack: Stack) -> dict[str, int]:
    """Of each process."""
    children = psutil.Process(stack.pid).children()
    return {_name(child): child.memory_info().rss for child in children}


async def test_a_thousand_at_once(scene: Scene, noted: Noted):
    at_ease = Crowd(scene, AT_EASE)
    quiet_tokens_per_s = await at_ease.ask(300)
    before = memory_bytes(scene.stack)
    crowd = Crowd(scene, REQUESTS)
    peaks = before
    crowding = asyncio.ensure_future(crowd.ask(REQUESTS))
    while not crowding.done():
        await asyncio.wait([crowding], timeout=0.2)
        peaks = {name: max(peaks.get(name, 0), size) for name, size in memory_bytes(scene.stack).items()}
    tokens_per_s = crowding.result()
    noted(f"{dict(crowd.statuses)}, {tokens_per_s:.0f} tokens/s, at ease {quiet_tokens_per_s:.0f}")
    noted("MiB " + ", ".join(f"{name} {before[name] >> 20} -> {size >> 20}" for name, size in peaks.items()))
    assert set(crowd.statuses) == {200, 429}
    assert min(crowd.retry_after_s) >= 1
    assert tokens_per_s > GOODPUT_KEPT * quiet_tokens_per_s
    assert all(size - before[name] < GROWTH_LIMIT_BYTES for name, size in peaks.items())


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    return words[words.index("--id") + 1] if "--id" in words else "nats-server"
