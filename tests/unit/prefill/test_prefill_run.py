"""One prompt on a prefill worker: its states, slices and frames."""

from __future__ import annotations

import itertools

import pytest
from prefill_orders import order, run

from services.prefill.run import PrefillRun, RunState
from shared.core import FinishReason, SampledToken, SamplingParams, TokenLogprob
from shared.engine.contract import PrefillSlice
from shared.engine.fake import fake_spec
from shared.errors import DeadlineExceeded, ErrorInfo, ProtocolError
from shared.protocol.wire import unpack_ids

LEGAL = {
    (RunState.QUEUED, RunState.COMPUTING),
    (RunState.QUEUED, RunState.ENDED),
    (RunState.COMPUTING, RunState.SENDING),
    (RunState.COMPUTING, RunState.ENDED),
    (RunState.SENDING, RunState.ENDED),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(RunState, RunState)))
def test_only_legal_transitions_are_made(before: RunState, after: RunState):
    it = run()
    it.state = before
    if (before, after) in LEGAL:
        it.advance(after)
        assert it.state is after
    else:
        with pytest.raises(ValueError, match=f"{before.name} -> {after.name}"):
            it.advance(after)
        assert it.state is before


def test_another_epoch_is_another_sequence():
    first = order()
    second = PrefillRun(first, 0.0), run(session=first.session, epoch=1)
    assert len({each.key for each in second}) == 2


def test_bytes_that_are_no_ids_raise():
    with pytest.raises(ProtocolError):
        run(prompt_ids=b"\x00\x01\x02")


def test_the_deadline_counts_from_when_it_was_received():
    assert run(deadline_ms=2500).deadline_s == 102.5


def test_a_prompt_goes_slice_by_slice_until_nothing_remains():
    it = run(25)
    cut = []
    while it.remaining_tokens:
        part = it.next_slice(10)
        cut.append((part.start, part.stop))
        it.done_tokens = part.stop
    assert cut == [(0, 10), (10, 20), (20, 25)]


def test_what_is_cached_here_is_not_computed_whatever_decode_has():
    it = run(25, cached_tokens=5)
    assert it.remaining_tokens == 25
    it.begin(cached_tokens=20)
    assert it.remaining_tokens == 5
    assert it.next_slice(100) == PrefillSlice(it.key, 20, 25)
    report = it.report("p0")
    assert (report.computed_tokens, report.cached_tokens) == (5, 20)


def test_an_ended_run_waits_for_nothing():
    it = run(25)
    it.advance(RunState.ENDED)
    assert it.remaining_tokens == 0


def test_the_engine_keeps_memory_for_the_prompt_only():
    sequence = run(25, emitted=5).sequence()
    assert (sequence.capacity_tokens, sequence.emitted) == (25, 5)


def test_the_first_frame_carries_token_report_and_log_probability():
    it = run(25, emitted=5)
    it.begin(cached_tokens=0)
    frame = it.first_frame(SampledToken(9, TokenLogprob(-0.25)), fake_spec(), "p0")
    assert (frame.index, unpack_ids(frame.ids), frame.logprobs) == (5, [9], (TokenLogprob(-0.25),))
    assert frame.finish is None
    assert frame.prefill is not None
    assert (frame.prefill.worker, frame.prefill.computed_tokens) == ("p0", 25)


@pytest.mark.parametrize(
    ("fields", "finish"),
    [
        ({"max_tokens": 1}, FinishReason.LENGTH),
        ({"max_tokens": 6, "emitted": 5}, FinishReason.LENGTH),
        ({"max_tokens": 7, "emitted": 5}, None),
        ({"sampling": SamplingParams(stop_token_ids=(9,))}, FinishReason.STOP),
        ({"max_tokens": 1, "sampling": SamplingParams(stop_token_ids=(9,))}, FinishReason.STOP),
    ],
)
def test_the_first_token_may_be_the_last(fields: dict[str, object], finish: FinishReason | None):
    it = run(25, **fields)
    it.begin(cached_tokens=0)
    assert it.first_frame(SampledToken(9), fake_spec(), "p0").finish is finish


def test_an_end_of_sequence_ends_unless_it_is_to_be_ignored():
    spec = fake_spec(eos_token_ids=(9,))
    for ignore, finish in ((False, FinishReason.STOP), (True, None)):
        it = run(25, sampling=SamplingParams(ignore_eos=ignore))
        it.begin(cached_tokens=0)
        assert it.first_frame(SampledToken(9), spec, "p0").finish is finish


def test_an_error_frame_has_no_tokens():
    frame = run().error_frame(DeadlineExceeded("late"))
    assert (frame.ids, frame.finish) == (b"", FinishReason.ERROR)
    assert frame.error == ErrorInfo(code="deadline_exceeded", message="late")
