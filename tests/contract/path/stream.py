"""One client that reads a stream, and knows what it must say."""

from __future__ import annotations

import asyncio

from shared.core import FinishReason, SamplingParams
from shared.runtime.tasks import Tasks

from .engines import engine
from .fleet import Fleet, colocated, token_ids
from .prompts import prompt

SEEDED = SamplingParams(temperature=1.0, seed=7)


class Stream:
    """One client that reads a stream; tells when it has so many tokens."""

    def __init__(self, fleet: Fleet, clients: Tasks, max_tokens: int = 300, prompt_tokens: int = 80) -> None:
        self._fleet = fleet
        self._prompt = prompt(prompt_tokens)
        self._max_tokens = max_tokens
        self._enough: list[tuple[int, asyncio.Event]] = []
        self.ids: list[int] = []
        self.finish: FinishReason | None = None
        self.task = clients.start(self._read(), name="stream")

    async def has(self, count: int) -> None:
        event = asyncio.Event()
        self._enough.append((count, event))
        if len(self.ids) < count:
            await event.wait()

    async def is_unbroken(self) -> None:
        """Wait for the end: the tokens are those of one engine."""
        await self.task
        ids, finish = colocated(engine(), self._prompt, self._max_tokens, SEEDED)
        assert self.ids == ids
        assert self.finish is finish

    async def _read(self) -> None:
        request = self._fleet.generating(self._prompt, self._max_tokens, SEEDED)
        async with self._fleet.sessions.generate(request) as generation:
            async for delta in generation:
                self.ids += token_ids([delta])
                self.finish = delta.finish
                for count, event in self._enough:
                    if len(self.ids) >= count:
                        event.set()
