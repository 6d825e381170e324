"""The timeline of one generation."""

from __future__ import annotations

import pytest
from frames import frame, placed

from services.gateway.sessions.timeline import Timeline
from shared.protocol.to_decode import PrefillReport
from shared.protocol.to_gateway import HandoffReport


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timeline(clock: Clock) -> Timeline:
    return Timeline(clock)


def test_nothing_is_known_at_first(timeline: Timeline):
    timings = timeline.timings()
    assert (timings.ttft_ms, timings.itl_ms, timings.queue_ms, timings.prefill_worker) == (None, None, None, None)
    assert timings.total_ms == 0.0


def test_times_to_the_first_token_and_between_tokens(timeline: Timeline, clock: Clock):
    clock.now_s = 100.5
    assert timeline.tokens(1) is None
    clock.now_s = 100.75
    assert timeline.tokens(1) == 0.25
    clock.now_s = 101.5
    assert timeline.tokens(3) == 0.75
    timings = timeline.timings()
    assert (timings.ttft_ms, timings.itl_ms, timings.total_ms) == (500.0, 250.0, 1500.0)


def test_one_token_has_no_time_between(timeline: Timeline, clock: Clock):
    clock.now_s = 101.0
    timeline.tokens(1)
    assert timeline.timings().itl_ms is None


def test_each_queue_counts_for_itself(timeline: Timeline):
    timeline.placed(placed())
    timeline.report(
        frame(0, prefill=PrefillReport(worker="p0", queue_ms=4.0, compute_ms=9.0, computed_tokens=3, cached_tokens=2))
    )
    timings = timeline.timings()
    assert (timings.queue_ms, timings.prefill_queue_ms, timings.prefill_ms) == (1.0, 4.0, 9.0)
    assert timings.cached_tokens == 2
    assert timings.prefill_worker == "p0"


@pytest.mark.parametrize("order", [1, -1])
def test_the_longer_of_both_ends_is_the_hand_off(timeline: Timeline, order: int):
    for visible_ms in (3.0, 8.0)[::order]:
        report = HandoffReport(worker="d0", visible_ms=visible_ms, payload_bytes=640, chunks=2)
        timeline.report(frame(0, handoff=report))
    timings = timeline.timings()
    assert (timings.handoff_ms, timings.decode_worker, timings.kv_bytes) == (8.0, "d0", 640)


@pytest.mark.parametrize("order", [1, -1])
def test_each_end_adds_the_stages_it_measured(timeline: Timeline, order: int):
    prefill = HandoffReport(worker="d0", visible_ms=8.0, payload_bytes=640, chunks=2, publish_ms=5.0, wire_ms=3.0)
    decode = HandoffReport(worker="d0", visible_ms=5.0, payload_bytes=640, chunks=2, import_ms=2.0, first_step_ms=20.0)
    for report in (prefill, decode)[::order]:
        timeline.report(frame(0, handoff=report))
    timings = timeline.timings()
    assert (timings.publish_ms, timings.wire_ms, timings.import_ms, timings.first_step_ms) == (5.0, 3.0, 2.0, 20.0)


def test_a_new_epoch_begins_anew(timeline: Timeline):
    timeline.report(frame(0, handoff=HandoffReport(worker="d0", visible_ms=8.0, payload_bytes=1, chunks=1)))
    timeline.begin_epoch()
    timeline.placed(placed())
    timings = timeline.timings()
    assert (timings.handoff_ms, timings.decode_worker, timings.queue_ms) == (None, None, 1.0)


def test_workers_may_report_before_the_scheduler_has_answered(timeline: Timeline):
    timeline.report(frame(0, prefill=PrefillReport(worker="p0", queue_ms=4.0, compute_ms=9.0, computed_tokens=3)))
    timeline.placed(placed())
    timings = timeline.timings()
    assert (timings.prefill_worker, timings.prefill_ms, timings.queue_ms) == ("p0", 9.0, 1.0)
