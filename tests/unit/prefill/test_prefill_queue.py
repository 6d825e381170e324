"""Which prompt tokens are computed in the next call."""

from __future__ import annotations

import pytest
from prefill_orders import order, run

from services.prefill.order import Order, rank_of
from services.prefill.queue import RunQueue
from services.prefill.run import PrefillRun, RunState
from shared.engine.fake import FakeEngine, fake_spec
from shared.errors import ContextExceeded, InvalidRequest, Overloaded
from shared.protocol.wire import pack_ids

SPEC = fake_spec(vocab_size=256)


def engine(kv_tokens: int = 1000) -> FakeEngine:
    return FakeEngine(SPEC, kv_tokens * SPEC.layout.token_bytes)


def queue(*runs: PrefillRun, kv_tokens: int = 1000, limit_tokens: int = 10_000) -> RunQueue:
    it = RunQueue(engine(kv_tokens), limit_tokens)
    for each in runs:
        it.admit(each)
    return it


def shortest_first(*runs: PrefillRun, kv_tokens: int = 1000, aging_tokens_per_s: float = 10.0, now_s: float = 100.0):
    """Runs are accepted at 100 s."""
    it = RunQueue(engine(kv_tokens), 10_000, rank_of(Order.SHORTEST, aging_tokens_per_s), lambda: now_s)
    for each in runs:
        it.admit(each)
    return it


def ranges(it: RunQueue, budget_tokens: int) -> list[tuple[PrefillRun, int, int]]:
    return [(run, part.start, part.stop) for run, part in it.pick(budget_tokens)[0]]


def test_short_prompts_share_a_call_in_order_of_arrival():
    first, second, third = run(10), run(20), run(30)
    it = queue(first, second, third)
    assert ranges(it, 100) == [(first, 0, 10), (second, 0, 20), (third, 0, 30)]


def test_no_call_exceeds_its_budget():
    first, second, third = run(10), run(20), run(30)
    it = queue(first, second, third)
    assert ranges(it, 25) == [(first, 0, 10), (second, 0, 15)]


def test_a_long_prompt_goes_first_if_it_came_first():
    long, short = run(100), run(5)
    it = queue(long, short)
    done = []
    while len(it):
        for each, part in it.pick(40)[0]:
            each.done_tokens = part.stop
            done.append((each, part.stop))
            if not each.remaining_tokens:
                it.remove(each)
    assert done == [(long, 40), (long, 80), (long, 100), (short, 5)]


def test_a_stream_that_lost_its_workers_goes_before_those_that_have_not_begun():
    first, second, resumed = run(10), run(20), run(30, begun=True)
    it = queue(first, second, resumed)
    assert [each for each, _, _ in ranges(it, 100)] == [resumed, first, second]


def test_by_shortest_what_is_done_soonest_goes_first():
    long, short, middle = run(100), run(5), run(50)
    it = shortest_first(long, short, middle)
    assert ranges(it, 60) == [(short, 0, 5), (middle, 0, 50), (long, 0, 5)]


def test_by_shortest_what_is_nearly_done_is_short():
    long, short = run(100), run(20)
    it = shortest_first(long, short)
    long.begin(cached_tokens=90)
    assert ranges(it, 25) == [(long, 90, 100), (short, 0, 15)]


def test_by_shortest_a_long_prompt_does_not_wait_for_ever():
    long = run(100)
    young = PrefillRun(order(5), now_s=112.0)
    it = shortest_first(long, young, now_s=112.0)
    assert ranges(it, 105)[0] == (long, 0, 100)


def test_by_shortest_what_has_its_memory_goes_on_when_there_is_none_for_the_first():
    big, late = run(80), run(30)
    it = shortest_first(big, kv_tokens=100)
    assert ranges(it, 10) == [(big, 0, 10)]
    big.done_tokens = 10
    it.admit(late)
    assert ranges(it, 50) == [(big, 10, 60)]
    assert late.state is RunState.QUEUED


def test_the_budget_of_nothing_picks_nothing():
    assert queue(run(10)).pick(0) == ([], [])


def test_a_run_without_free_memory_waits_and_all_behind_it():
    engine_full = engine(30)
    it = RunQueue(engine_full, 10_000)
    first, second, third = run(20), run(20), run(5)
    for each in (first, second, third):
        it.admit(each)
    assert ranges(it, 100) == [(first, 0, 20)]
    assert (second.state, third.state) == (RunState.QUEUED, RunState.QUEUED)
    it.remove(first)
    engine_full.close(first.key)
    assert ranges(it, 100) == [(second, 0, 20), (third, 0, 5)]


def test_memory_is_taken_once_however_often_a_run_is_picked():
    it = queue(it_run := run(100))
    for _ in range(3):
        assert ranges(it, 10) == [(it_run, 0, 10)]
    assert it_run.state is RunState.COMPUTING


def test_what_the_engine_refuses_for_good_is_told_and_holds_up_nobody():
    bad, good = run(3, prompt_ids=pack_ids([1, 2, 999])), run(10)
    it = queue(bad, good)
    picked, refused = it.pick(100)
    assert [each for each, _ in picked] == [good]
    assert [(each, type(error)) for each, error in refused] == [(bad, InvalidRequest)]
    assert bad.state is RunState.QUEUED


def test_what_waits_is_limited_but_one_prompt_always_fits():
    it = queue(run(500), limit_tokens=100)
    assert it.queued_tokens == 500
    with pytest.raises(Overloaded):
        it.admit(run(1))
    assert len(it) == 1


def test_computed_tokens_make_room_in_the_queue():
    first = run(90)
    it = queue(first, limit_tokens=100)
    first.done_tokens = 85
    it.admit(run(95))
    assert it.queued_tokens == 100


@pytest.mark.parametrize("fields", [{"prompt_ids": b""}, {"cached_tokens": 10}, {"cached_tokens": 11}])
def test_a_prompt_with_nothing_to_compute_is_refused(fields: dict[str, object]):
    it = queue()
    with pytest.raises(InvalidRequest):
        it.admit(run(10, **fields))
    assert len(it) == 0


def test_a_prompt_beyond_all_memory_is_refused_at_once():
    it = queue(kv_tokens=50)
    with pytest.raises(ContextExceeded):
        it.admit(run(51))
    it.admit(run(50))


def test_removing_twice_is_no_error():
    it = queue(it_run := run(10))
    it.remove(it_run)
    it.remove(it_run)
    assert (len(it), it.queued_tokens) == (0, 0)
