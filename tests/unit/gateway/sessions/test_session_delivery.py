"""Exactly once, in order, whatever arrives."""

from __future__ import annotations

import itertools

import pytest
from frames import frame, ids_of
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.sessions.delivery import Delivery
from shared.core import FinishReason, SampledToken, TokenLogprob
from shared.errors import HandoffFailed, ProtocolError
from shared.protocol.to_gateway import TokenFrame

LENGTH = FinishReason.LENGTH


def frames_of(draw: st.DrawFn, ids: list[int], start: int, epoch: int) -> list[TokenFrame]:
    """`ids[start:]` cut into frames, some twice or cut otherwise as well, in any order, with the end."""
    made = []
    for _ in range(draw(st.integers(1, 2))):
        cuts = sorted(draw(st.sets(st.integers(start, len(ids)))) | {start, len(ids)})
        for left, right in itertools.pairwise(cuts):
            end = {"finish": LENGTH} if right == len(ids) else {}
            made.append(frame(left, ids[left:right], epoch, **end))
    made += draw(st.lists(st.sampled_from(made), max_size=4)) if made else [frame(start, (), epoch, finish=LENGTH)]
    return draw(st.permutations(made))


@st.composite
def two_epochs(draw: st.DrawFn) -> tuple[list[int], list[TokenFrame], list[TokenFrame]]:
    """All ids, the frames of epoch 0 that arrived before the move, and the late ones of epoch 0."""
    ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=12))
    frames = frames_of(draw, ids, 0, 0)
    cut = draw(st.integers(0, len(frames)))
    return ids, frames[:cut], frames[cut:]


@given(two_epochs(), st.data())
def test_any_frames_of_two_epochs_deliver_every_token_once_in_order(
    arrival: tuple[list[int], list[TokenFrame], list[TokenFrame]], data: st.DataObject
):
    ids, before, late = arrival
    delivery = Delivery()
    delivered: list[int] = []
    for each in before:
        delivered += ids_of(delivery.accept(each))
        assert delivered == ids[: delivery.next_index]
    if delivery.finish is None:
        delivery.begin(1)
        assert not delivery.waits
        frames = frames_of(data.draw, ids, len(delivered), 1)
        for each in data.draw(st.permutations([*frames, *late])):
            assert delivery.finish is None or delivered == ids
            delivered += ids_of(delivery.accept(each))
            assert delivered == ids[: delivery.next_index]
    assert delivered == ids
    assert delivery.finish is LENGTH
    assert not delivery.waits


def test_a_later_token_waits_for_the_one_before():
    delivery = Delivery()
    assert delivery.accept(frame(1, [11])) == []
    assert delivery.waits
    assert ids_of(delivery.accept(frame(0, [10]))) == [10, 11]
    assert not delivery.waits


def test_an_end_counts_once_all_before_it_is_there():
    delivery = Delivery()
    delivery.accept(frame(1, [11], finish=LENGTH))
    assert delivery.finish is None
    delivery.accept(frame(0, [10]))
    assert delivery.finish is LENGTH


def test_an_end_without_tokens_waits_for_those_before_it():
    delivery = Delivery()
    delivery.accept(frame(2, finish=FinishReason.STOP))
    assert delivery.waits
    delivery.accept(frame(0, [10, 11]))
    assert delivery.finish is FinishReason.STOP


def test_nothing_comes_after_the_end():
    delivery = Delivery()
    delivery.accept(frame(0, [10], finish=LENGTH))
    assert delivery.accept(frame(1, [11])) == []
    delivery.accept(frame(1, error=HandoffFailed("late").info))
    assert delivery.error is None


def test_other_epochs_say_nothing():
    delivery = Delivery()
    delivery.begin(3)
    for epoch in (0, 2, 4):
        assert delivery.accept(frame(0, [10], epoch)) == []
        delivery.accept(frame(0, [], epoch, finish=LENGTH))
        delivery.accept(frame(0, [], epoch, error=HandoffFailed("old").info))
    assert (delivery.finish, delivery.error, delivery.waits) == (None, None, False)


def test_what_was_held_of_an_older_epoch_is_forgotten():
    delivery = Delivery()
    delivery.accept(frame(1, [66], finish=LENGTH))
    delivery.begin(1)
    assert ids_of(delivery.accept(frame(0, [10], 1))) == [10]
    assert delivery.finish is None


def test_an_error_is_told_and_a_new_epoch_forgets_it():
    delivery = Delivery()
    delivery.accept(frame(0, error=HandoffFailed("lost").info))
    assert isinstance(delivery.error, HandoffFailed)
    delivery.begin(1)
    assert delivery.error is None


def test_log_probabilities_stay_with_their_tokens():
    delivery = Delivery()
    logprobs = (TokenLogprob(-0.1), TokenLogprob(-0.2))
    assert delivery.accept(frame(0, [7, 8], logprobs=logprobs)) == [
        SampledToken(7, logprobs[0]),
        SampledToken(8, logprobs[1]),
    ]


@pytest.mark.parametrize(
    "bad",
    [
        TokenFrame(session="s", epoch=0, index=0, ids=b"\x01\x00\x00"),
        frame(0, [-1]),
        frame(0, [1, 2], logprobs=(TokenLogprob(-0.1),)),
        frame(0, [1], logprobs=()),
    ],
)
def test_a_frame_that_makes_no_sense_raises_and_changes_nothing(bad: TokenFrame):
    delivery = Delivery()
    with pytest.raises(ProtocolError):
        delivery.accept(bad)
    assert (delivery.next_index, delivery.waits) == (0, False)
