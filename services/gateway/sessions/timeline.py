"""The timeline of one generation: own times from arrival on, and what the workers report."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from services.gateway.generation import Timings
from shared.protocol.to_gateway import HandoffReport, TokenFrame
from shared.protocol.to_scheduler import Placed

_HANDOFF_STAGES = ("publish_ms", "wire_ms", "import_ms", "first_step_ms")


class Timeline:
    """Starts when made. Times are seconds on this process's monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_s = clock()
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._tokens = 0
        self._reported = Timings()

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

    def begin_epoch(self) -> None:
        """What was reported of an earlier one is over."""
        self._reported = Timings()

    def placed(self, placed: Placed) -> None:
        """The workers may have reported already: their messages and this one come different ways."""
        self._reported = msgspec.structs.replace(self._reported, queue_ms=placed.queue_ms)

    def report(self, frame: TokenFrame) -> None:
        """Take in what a worker says of its phase."""
        if frame.prefill is not None:
            self._reported = msgspec.structs.replace(
                self._reported,
                prefill_worker=frame.prefill.worker,
                prefill_queue_ms=frame.prefill.queue_ms,
                prefill_ms=frame.prefill.compute_ms,
                cached_tokens=frame.prefill.cached_tokens,
            )
        if frame.handoff is not None:
            self._report_handoff(frame.handoff)

    def _report_handoff(self, report: HandoffReport) -> None:
        """Both ends report, each what it can measure."""
        stages = {name: took_ms for name in _HANDOFF_STAGES if (took_ms := getattr(report, name)) is not None}
        self._reported = msgspec.structs.replace(
            self._reported,
            decode_worker=report.worker,
            handoff_ms=max(report.visible_ms, self._reported.handoff_ms or 0.0),
            kv_bytes=report.payload_bytes,
            kv_encoding=report.encoding or self._reported.kv_encoding,
            **stages,
        )

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
        return msgspec.structs.replace(
            self._reported, ttft_ms=_ms(self.ttft_s), itl_ms=_ms(self.itl_s), total_ms=_ms(self.total_s)
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
