"""The choices of one call, generated side by side: who runs them, and their deltas in the order they come.

Knows generations, not what is made of them. The OpenAI routes call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import msgspec

from services.gateway.generation import Delta, Generation
from shared.core import FinishReason
from shared.errors import BatonError, Cancelled, WorkerFailed
from shared.runtime.tasks import Tasks

BUFFERED_PER_CHOICE = 4


class ChoiceDelta(msgspec.Struct, frozen=True):
    """The next delta of choice `index`."""

    index: int
    delta: Delta


class Choices:
    """Runs `generations` while its context is open; leaving it cancels those that have not finished.

    The buffer between generations and reader is bounded, so a slow reader slows them down.
    """

    def __init__(self, generations: Sequence[AbstractAsyncContextManager[Generation]], name: str) -> None:
        self._generations = generations
        self._running = len(generations)
        self._queue: asyncio.Queue[ChoiceDelta | Exception] = asyncio.Queue(BUFFERED_PER_CHOICE * len(generations))
        self._failure: Exception | None = None
        self._tasks = Tasks(f"request {name}")
        self._begun: list[Generation] = []

    async def __aenter__(self) -> Choices:
        for index, running in enumerate(self._generations):
            self._tasks.start(self._run(index, running), name=f"choice {index}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.running:
                await self._tasks.drain()
        finally:
            await self._tasks.close()

    @property
    def running(self) -> bool:
        """Whether some choice has not finished yet."""
        return self._running > 0

    @property
    def sessions(self) -> list[str]:
        """The ids of those that have begun."""
        return [generation.id for generation in self._begun]

    def cancel(self) -> None:
        """Nobody can want more of them, resumable or not; they end when the context is left."""
        for generation in self._begun:
            generation.cancel()

    async def take(self, timeout_s: float | None = None) -> list[ChoiceDelta]:
        """All deltas there are, waiting for one at most `timeout_s`: then, none.

        Raises what a generation raised, after all that came before it: a BatonError, or anything if it is broken.
        """
        if self._failure is not None:
            raise self._failure
        try:
            async with asyncio.timeout(timeout_s):
                item = await self._queue.get()
        except TimeoutError:
            return []
        taken: list[ChoiceDelta] = []
        while True:
            if isinstance(item, Exception):
                if not taken:
                    raise item
                self._failure = item
                return taken
            taken.append(item)
            self._running -= item.delta.finish is not None
            if self._queue.empty():
                return taken
            item = self._queue.get_nowait()

    async def _run(self, index: int, running: AbstractAsyncContextManager[Generation]) -> None:
        try:
            finish = None
            async with running as generation:
                self._begun.append(generation)
                async for delta in generation:
                    finish = _good_finish(delta)
                    await self._queue.put(ChoiceDelta(index, delta))
            if finish is None:
                raise BatonError("the generation ended without a finish")
        except Exception as error:  # noqa: BLE001 - the task's boundary; `take` raises it
            await self._queue.put(error)


def _good_finish(delta: Delta) -> FinishReason | None:
    match delta.finish:
        case FinishReason.CANCELLED:
            raise Cancelled("the generation was cancelled")
        case FinishReason.ERROR:
            raise WorkerFailed("the generation failed")
    return delta.finish
