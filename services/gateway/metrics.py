"""The gateway's metrics: what a client feels, in Prometheus' terms. Observed once per session, when it ends."""

from __future__ import annotations

from services.gateway.sessions.session import Session
from shared.runtime import stages
from shared.runtime.metrics import (
    HANDOFF_BUCKETS_S,
    ITL_BUCKETS_S,
    PREFILL_BUCKETS_S,
    QUEUE_BUCKETS_S,
    REQUEST_BUCKETS_S,
    TTFT_BUCKETS_S,
    counter,
    histogram,
)
from shared.runtime.stages import Stage

_REQUESTS = counter("requests", "Generations that ended, by outcome", ["outcome"])
_PROMPT_TOKENS = counter("prompt_tokens", "Prompt tokens of generations that ended")
_OUTPUT_TOKENS = counter("output_tokens", "Tokens received from the workers")
_MOVES = counter("session_moves", "Sessions placed again after a failure")
_RESUMES = counter("session_resumes", "Sessions resumed by a client, by where they were", ["place"])
_QUARANTINED = counter("quarantined_prompts", "Prompts refused from then on, because two workers failed of them")
_TTFT = histogram("ttft_seconds", "Request to first token", TTFT_BUCKETS_S)
_ITL = histogram("itl_seconds", "Time between tokens", ITL_BUCKETS_S)
_TOTAL = histogram("request_seconds", "Request to last token", REQUEST_BUCKETS_S)
_QUEUE = histogram("queue_seconds", "Waiting for workers", QUEUE_BUCKETS_S)
_PREFILL = histogram("prefill_seconds", "Computing the prompt", PREFILL_BUCKETS_S)
_HANDOFF = histogram("handoff_seconds", "Visible part of the hand-off", HANDOFF_BUCKETS_S)


def observe_move() -> None:
    """A session goes on in a new epoch."""
    _MOVES.inc()


def observe_resume(place: str) -> None:
    """A client resumed a session: `here` it was, `taken` over from another gateway, or `ended`."""
    _RESUMES.labels(place).inc()


def observe_quarantine() -> None:
    """A prompt is refused from now on."""
    _QUARANTINED.inc()


def observe_end(session: Session) -> None:
    """Everything known of a session that is over."""
    timings = session.timeline.timings()
    _REQUESTS.labels("finished" if session.finished else "unfinished").inc()
    _PROMPT_TOKENS.inc(len(session.request.prompt_ids))
    _OUTPUT_TOKENS.inc(session.received_tokens)
    for gap_s in session.gaps_s:
        _ITL.observe(gap_s)
    phases = (
        (_TTFT, timings.ttft_ms),
        (_TOTAL, timings.total_ms),
        (_QUEUE, timings.queue_ms),
        (_PREFILL, timings.prefill_ms),
        (_HANDOFF, timings.handoff_ms),
    )
    for metric, duration_ms in phases:
        if duration_ms is not None:
            metric.observe(duration_ms / 1000)
    for stage in Stage:
        stages.observe(stage, getattr(timings, f"{stage.value}_ms"))
