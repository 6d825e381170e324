"""The workers' load as a bystander sees it, read with plain msgpack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgpack
from nats.aio.msg import Msg

Beat = dict[str, Any]


class BeatWatch:
    """The last beat of each worker, and all its starts; `hear` is the callback of a subscription."""

    def __init__(self) -> None:
        self.last: dict[str, Beat] = {}
        self.boots: dict[str, set[str]] = {}
        self._heard = asyncio.Condition()

    async def hear(self, message: Msg) -> None:
        beat = msgpack.unpackb(message.data)
        async with self._heard:
            self.last[beat["worker"]] = beat
            self.boots.setdefault(beat["worker"], set()).add(beat["boot"])
            self._heard.notify_all()

    async def until(self, holds: Callable[[dict[str, Beat]], bool]) -> None:
        """Wait until the last beats are as wanted."""
        async with self._heard:
            await self._heard.wait_for(lambda: holds(self.workers()))

    async def at_rest(self) -> None:
        """Wait until both phases have been heard of, and no worker holds a session or a byte."""
        await self.until(_at_rest)

    async def until_all(self, holds: Callable[[dict[str, Beat]], bool]) -> None:
        """`until`, over the beats of all processes."""
        async with self._heard:
            await self._heard.wait_for(lambda: holds(self.last))

    def workers(self) -> dict[str, Beat]:
        return {name: beat for name, beat in self.last.items() if beat["role"] in ("prefill", "decode")}


def _at_rest(workers: dict[str, Beat]) -> bool:
    roles = {beat["role"] for beat in workers.values()}
    return roles == {"prefill", "decode"} and all(map(is_idle, workers.values()))


def is_idle(beat: Beat) -> bool:
    """Whether its process holds neither a session nor KV memory."""
    return bool(beat["sessions"] == 0 and beat["kv_free_bytes"] == beat["kv_total_bytes"])
