"""The stages of a request, each measured by one process on its own monotonic clock: `baton_stage_seconds{stage=...}`.

Scheduler, prefill and decode observe what they do themselves; the gateway observes what all of them report of a session
that ended. `docs/timeline.md` says what each stage is.
"""

from __future__ import annotations

import enum

from shared.runtime.metrics import histogram

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SECONDS = histogram("stage_seconds", "Time of one request in one stage", _BUCKETS_S, ["stage"])


class Stage(enum.StrEnum):
    """In the order in which a request meets them; `IMPORT` goes on beside `PREFILL`, `PUBLISH` and `WIRE`."""

    QUEUE = "queue"
    PREFILL_QUEUE = "prefill_queue"
    PREFILL = "prefill"
    PUBLISH = "publish"
    WIRE = "wire"
    IMPORT = "import"
    FIRST_STEP = "first_step"


def observe(stage: Stage, duration_ms: float | None) -> None:
    """One request has passed `stage`. None: it did not, or nobody said how long it took."""
    if duration_ms is not None:
        _SECONDS.labels(stage.value).observe(duration_ms / 1000)
