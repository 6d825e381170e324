"""An event loop whose clock jumps to the next timer instead of waiting for it: silence costs no time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs timers in order, at once. For code that waits for nothing but other tasks and timers."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__()

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready:
            assert self._scheduled, "everybody waits for something that never comes"
            self._now_s = max(self._now_s, self._scheduled[0]._when)
        super()._run_once()


def run(coro: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coro)
