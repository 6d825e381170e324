"""The timeline of one generation: own times from arrival on, and what the workers report."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.gateway.generation import Timings
from shared.protocol.to_gateway import TokenFrame
from shared.protocol.to_scheduler import Placed


class Timeline:
    """Starts when made. Times are seconds on this process's monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_s = clock()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._tokens = 0
        self._placed: Placed | None = None
        self._prefill_worker: str | None = None
        self._prefill_queue_ms = 0.0
        self._prefill_ms: float | None = None
        self._cached_tokens: int | None = None
        self._decode_worker: str | None = None
        self._handoff_ms: float | None = None
        self._kv_bytes: int | None = None
        self._kv_encoding: str | None = None

    @property
    def ttft_s(self) -> float | None:
        return None if self._first_s is None else self._first_s - self._started_s

    @property
    def itl_s(self) -> float | None:
        """Mean time between tokens; None before the second one."""
        if self._first_s is None or self._last_s is None or self._tokens < 2:
            return None
        return (self._last_s - self._first_s) / (self._tokens - 1)

    @property
    def total_s(self) -> float:
        return self._clock() - self._started_s

    def placed(self, placed: Placed) -> None:
        self._placed = placed

    def report(self, frame: TokenFrame) -> None:
        """Take in what a worker says of its phase."""
        if frame.prefill is not None:
            self._prefill_worker = frame.prefill.worker
            self._prefill_queue_ms = frame.prefill.queue_ms
            self._prefill_ms = frame.prefill.compute_ms
            self._cached_tokens = frame.prefill.cached_tokens
        if frame.handoff is not None:
            self._decode_worker = frame.handoff.worker
            self._handoff_ms = max(frame.handoff.visible_ms, self._handoff_ms or 0.0)
            self._kv_bytes = frame.handoff.payload_bytes
            self._kv_encoding = frame.handoff.encoding

    def tokens(self, count: int) -> float | None:
        """`count` tokens arrived now. Returns the time since the last ones, in seconds."""
        now_s = self._clock()
        gap_s = None if self._last_s is None else now_s - self._last_s
        if self._first_s is None:
            self._first_s = now_s
        self._last_s = now_s
        self._tokens += count
        return gap_s

    def timings(self) -> Timings:
        queue_ms = None if self._placed is None else self._placed.queue_ms + self._prefill_queue_ms
        return Timings(
            prefill_worker=self._prefill_worker,
            decode_worker=self._decode_worker,
            queue_ms=queue_ms,
            prefill_ms=self._prefill_ms,
            handoff_ms=self._handoff_ms,
            kv_bytes=self._kv_bytes,
            kv_encoding=self._kv_encoding,
            cached_tokens=self._cached_tokens,
            ttft_ms=_ms(self.ttft_s),
            itl_ms=_ms(self.itl_s),
            total_ms=_ms(self.total_s),
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
