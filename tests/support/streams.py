"""A generation over a WebSocket, read token by token, with the moment each delta came."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp


class Stream:
    """What has come so far. An index that comes twice, or is left out, is an AssertionError."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.moments_s: list[float] = []
        self.last: dict[str, Any] = {}
        self.ended_s = 0.0
        self._came = asyncio.Condition()

    async def read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """To the end."""
        while self.last.get("type") not in ("finished", "error"):
            event = await socket.receive_json()
            async with self._came:
                self.last = event
                if event["type"] == "delta":
                    assert event["index"] == len(self.token_ids)
                    self.token_ids += event["token_ids"]
                    self.moments_s.append(time.monotonic())
                if self._over:
                    self.ended_s = time.monotonic()
                self._came.notify_all()

    async def until(self, tokens: int) -> None:
        """Wait for so many tokens, or the end."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.token_ids) >= tokens or self._over)

    async def whole(self) -> list[int]:
        """All token ids, once it has finished well."""
        async with self._came:
            await self._came.wait_for(lambda: self._over)
        assert self.last["type"] == "finished", self.last
        return self.token_ids

    @property
    def _over(self) -> bool:
        return self.last.get("type") in ("finished", "error")

    def longest_pause_s(self, since_s: float) -> float:
        """Between two deltas, or from `since_s` until the first one after it."""
        moments_s = [since_s, *(moment_s for moment_s in self.moments_s if moment_s > since_s)]
        return max((later - earlier for earlier, later in itertools.pairwise(moments_s)), default=0.0)


@asynccontextmanager
async def streaming(http_url: str, *requests: dict[str, Any]) -> AsyncIterator[list[Stream]]:
    """One stream per request, each on its own socket, all at once."""
    streams = [Stream() for _ in requests]
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for stream, request in zip(streams, requests, strict=True):
            socket = await http.ws_connect(f"{http_url}/v1/stream")
            await socket.send_json({"type": "generate", "id": "a", "ignore_eos": True, "temperature": 0, **request})
            group.create_task(stream.read(socket))
        yield streams
