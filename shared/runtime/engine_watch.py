"""Whether the engine still works: the look at its running call, from the event loop. Decides, and ends nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.runtime.engine_thread import EngineThread

LONGEST_TIMES = 10.0
TICK_LIMIT_S = 1.0


class EngineWatch:
    """A call is stalled once it has run for `stall_s`, and `LONGEST_TIMES` as long as any call that has returned.

    Time counts only while somebody looks: a process that was frozen, and its engine with it, has not stalled.
    """

    def __init__(self, thread: EngineThread, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._thread = thread
        self._stall_s = stall_s
        self._clock = clock
        self._call = -1
        self._running_s = 0.0
        self._longest_s = 0.0
        self._looked_s = clock()

    @property
    def limit_s(self) -> float:
        return max(self._stall_s, LONGEST_TIMES * self._longest_s)

    @property
    def slow(self) -> bool:
        """Whether the running call is half way to being stalled: nobody should wait for this engine."""
        return self._running_s > self.limit_s / 2

    def look(self) -> str:
        """Why the engine is taken for stalled; empty while it is not. To be called at least every `TICK_LIMIT_S`."""
        now_s = self._clock()
        ticked_s = min(now_s - self._looked_s, TICK_LIMIT_S)
        self._looked_s = now_s
        call = self._thread.running_call
        if call is None or call != self._call:
            self._longest_s = max(self._longest_s, self._running_s)
            self._running_s = 0.0
        else:
            self._running_s += ticked_s
        self._call = -1 if call is None else call
        if self._running_s <= self.limit_s:
            return ""
        return f"the engine has been in one call for {self._running_s:.0f} s (engine_stall_s is {self._stall_s:g})"
