"""One session on a decode worker: its states and frames."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from claims import REPORT, SPEC, claim, desk, engine, granted

from services.decode.session import SessionState
from shared.core import FinishReason, SampledToken, SamplingParams, TokenLogprob
from shared.engine.fake import fake_spec
from shared.protocol.wire import unpack_ids

LEGAL = {
    (SessionState.CLAIMED, SessionState.RUNNING),
    (SessionState.CLAIMED, SessionState.ENDED),
    (SessionState.RUNNING, SessionState.ENDED),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(SessionState, SessionState)))
def test_only_legal_transitions_are_made(before: SessionState, after: SessionState):
    session = granted()
    session.state = before
    if (before, after) in LEGAL:
        session.advance(after)
        assert session.state is after
    else:
        with pytest.raises(ValueError, match=f"{before.name} -> {after.name}"):
            session.advance(after)
        assert session.state is before


def test_it_starts_once():
    session = granted()
    session.start(REPORT)
    with pytest.raises(ValueError, match="RUNNING -> RUNNING"):
        session.start(REPORT)


def test_another_epoch_is_another_sequence():
    it = desk(engine())
    first = it.grant(claim(session="0" * 32))
    second = desk(engine()).grant(claim(session="0" * 32, epoch=1))
    assert first.key != second.key


@pytest.mark.parametrize("emitted", [0, 7])
def test_indexes_go_on_behind_the_token_of_prefill(emitted: int):
    session = granted(emitted=emitted, max_tokens=100)
    session.start(REPORT)
    frames = [session.frame(SampledToken(token), SPEC) for token in (3, 4, 5)]
    assert [frame.index for frame in frames] == [emitted + 1, emitted + 2, emitted + 3]
    assert [unpack_ids(frame.ids) for frame in frames] == [[3], [4], [5]]


def test_the_report_travels_once_with_the_first_frame():
    session = granted()
    session.start(REPORT)
    frames = [session.frame(SampledToken(3), SPEC) for _ in range(3)]
    first = frames[0].handoff
    assert first is not None
    assert first.first_step_ms is not None
    assert msgspec.structs.replace(first, first_step_ms=None) == REPORT
    assert [frame.handoff for frame in frames[1:]] == [None, None]


def test_log_probabilities_travel_with_their_token():
    session = granted()
    session.start(REPORT)
    assert session.frame(SampledToken(3, TokenLogprob(-0.5)), SPEC).logprobs == (TokenLogprob(-0.5),)


@pytest.mark.parametrize("emitted", [0, 5])
def test_it_ends_at_its_length(emitted: int):
    session = granted(emitted=emitted, max_tokens=emitted + 3)
    session.start(REPORT)
    finishes = [session.frame(SampledToken(3), SPEC).finish for _ in range(2)]
    assert finishes == [None, FinishReason.LENGTH]


def test_it_ends_with_an_end_of_sequence_or_a_stop_token():
    spec = fake_spec(eos_token_ids=(2,))
    sampling = SamplingParams(stop_token_ids=(4,))
    for token, finish in ((3, None), (2, FinishReason.STOP), (4, FinishReason.STOP)):
        session = granted(sampling=sampling)
        session.start(REPORT)
        assert session.frame(SampledToken(token), spec).finish is finish
