"""The one thread an engine computes on, so that the event loop keeps answering while it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class EngineThread:
    """Runs calls one after the other. A call that runs cannot be cancelled: `call` then waits for its end."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._begun = 0
        self._ended = 0

    @property
    def running_call(self) -> int | None:
        """The number of the call that runs now; None between calls."""
        begun = self._begun
        return begun if begun != self._ended else None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args)` on the thread. When cancelled, once or more, waits for the call's end, then raises."""
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._executor, lambda: self._counted(lambda: function(*args, **kwargs)))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            raise

    def _counted(self, call: Callable[[], T]) -> T:
        self._begun += 1
        try:
            return call()
        finally:
            self._ended += 1

    def close(self) -> None:
        """Wait for the running call, and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)
