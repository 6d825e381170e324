"""Which workers the scheduler tries, in which order, and what it believes between their beats."""

from __future__ import annotations

import pytest
from scheduler_words import (
    CAPACITY_TOKENS,
    FINGERPRINT,
    MODEL,
    PROMPT_TOKENS,
    Clock,
    decode_beat,
    fleet_of,
    prefill_beat,
)

from services.scheduler.fleet import Fleet
from shared.protocol.to_all import Beat, WorkerState

SESSION = "5" * 32


def decodes(fleet: Fleet, capacity_tokens: int = CAPACITY_TOKENS) -> list[str]:
    return [beat.worker for beat in fleet.decodes(MODEL, capacity_tokens)]


def prefills(fleet: Fleet, prompt_tokens: int = PROMPT_TOKENS, fingerprint: str | None = FINGERPRINT) -> list[str]:
    return [beat.worker for beat in fleet.prefills(MODEL, prompt_tokens, fingerprint)]


def test_the_decode_with_fewest_sessions_comes_first_then_the_one_with_most_memory() -> None:
    fleet = fleet_of(
        decode_beat("busy", sessions=3),
        decode_beat("tight", sessions=1, kv_free_bytes=100),
        decode_beat("roomy", sessions=1, kv_free_bytes=200),
    )
    assert decodes(fleet) == ["roomy", "tight", "busy"]


def test_the_prefill_with_the_shortest_queue_comes_first() -> None:
    fleet = fleet_of(
        prefill_beat("long", queued_tokens=500), prefill_beat("idle"), prefill_beat("short", queued_tokens=10)
    )
    assert prefills(fleet) == ["idle", "short", "long"]


def test_equals_are_tried_in_the_order_of_their_names() -> None:
    fleet = fleet_of(decode_beat("b"), decode_beat("a"), prefill_beat("d"), prefill_beat("c"))
    assert (decodes(fleet), prefills(fleet)) == (["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    "unfit",
    [
        decode_beat("d", kv_free_bytes=CAPACITY_TOKENS - 1),
        decode_beat("d", sessions=10),
        decode_beat("d", model="another"),
        decode_beat("d", state=WorkerState.STARTING),
        decode_beat("d", state=WorkerState.DRAINING),
        decode_beat("d", state=WorkerState.STOPPED),
    ],
    ids=["no memory", "no seat", "another model", "starting", "draining", "stopped"],
)
def test_a_decode_that_cannot_take_the_session_is_not_tried(unfit: Beat) -> None:
    assert decodes(fleet_of(unfit)) == []


@pytest.mark.parametrize(
    "unfit",
    [
        prefill_beat("p", fingerprint="f" * 16),
        prefill_beat("p", state=WorkerState.DRAINING),
        prefill_beat("p", queued_tokens=1000 - PROMPT_TOKENS + 1),
    ],
    ids=["another model's cache", "draining", "queue full"],
)
def test_a_prefill_that_cannot_take_the_prompt_is_not_tried(unfit: Beat) -> None:
    assert prefills(fleet_of(unfit)) == []


def test_a_prompt_longer_than_the_limit_may_go_to_an_empty_queue() -> None:
    assert prefills(fleet_of(prefill_beat("p", queue_limit_tokens=5))) == ["p"]


def test_what_was_placed_since_the_last_beat_counts_as_load() -> None:
    fleet = fleet_of(a := decode_beat("a"), decode_beat("b"), p := prefill_beat("p"), prefill_beat("q"))
    fleet.give_decode(a, SESSION, CAPACITY_TOKENS)
    fleet.give_prefill(p, SESSION, PROMPT_TOKENS)
    assert (decodes(fleet), prefills(fleet)) == (["b", "a"], ["q", "p"])


def test_seats_and_memory_given_since_the_last_beat_are_taken() -> None:
    fleet = fleet_of(beat := decode_beat("d"))
    for _ in range(10):
        assert decodes(fleet) == ["d"]
        fleet.give_decode(beat, SESSION, CAPACITY_TOKENS)
    assert decodes(fleet) == []


def test_a_beat_sent_after_the_answer_replaces_what_was_believed() -> None:
    fleet = fleet_of(decode_beat("d", session_limit=1, number=4))
    beat = decode_beat("d", session_limit=1, number=5)
    fleet.answered(fleet.give_decode(beat, SESSION, CAPACITY_TOKENS), "", beat=4)
    assert decodes(fleet) == []
    fleet.hear(beat)
    assert decodes(fleet) == ["d"]


def test_a_beat_that_crosses_the_question_does_not_make_room() -> None:
    fleet = fleet_of(decode_beat("d", session_limit=1))
    given = fleet.give_decode(decode_beat("d"), SESSION, CAPACITY_TOKENS)
    fleet.hear(crossed := decode_beat("d", session_limit=1, number=2))
    assert decodes(fleet) == []
    fleet.answered(given, "", beat=2)
    fleet.hear(crossed)
    assert decodes(fleet) == []


def test_a_session_that_a_beat_tells_of_before_the_answer_is_here_counts_once() -> None:
    fleet = fleet_of(decode_beat("d", session_limit=2))
    given = fleet.give_decode(decode_beat("d"), SESSION, CAPACITY_TOKENS)
    fleet.hear(decode_beat("d", session_limit=2, sessions=1, number=2, taken=(SESSION,)))
    assert decodes(fleet) == ["d"]
    fleet.answered(given, "", beat=1)
    assert decodes(fleet) == ["d"]


def test_the_next_start_of_a_worker_has_nothing_of_what_its_last_one_took() -> None:
    fleet = fleet_of(beat := decode_beat("d", session_limit=1, number=7))
    fleet.answered(fleet.give_decode(beat, SESSION, CAPACITY_TOKENS), "", beat=7)
    fleet.hear(decode_beat("d", session_limit=1, boot="next", number=1))
    assert decodes(fleet) == ["d"]


def test_what_was_refused_does_not_count() -> None:
    fleet = fleet_of(beat := decode_beat("d", session_limit=1))
    given = fleet.give_decode(beat, SESSION, CAPACITY_TOKENS)
    fleet.refused(given)
    assert decodes(fleet) == ["d"]
    fleet.give_decode(beat, SESSION, CAPACITY_TOKENS)
    fleet.refused(given)
    assert decodes(fleet) == []


def test_a_prefill_and_a_decode_of_one_name_are_two_workers() -> None:
    fleet = fleet_of(beat := decode_beat("w", session_limit=1), prefill_beat("w"))
    fleet.give_decode(beat, SESSION, CAPACITY_TOKENS)
    fleet.hear(prefill_beat("w"))
    assert decodes(fleet) == []


def test_a_silent_worker_is_forgotten_with_what_was_given_to_it() -> None:
    clock = Clock()
    fleet = fleet_of(beat := decode_beat("d"), clock=clock)
    fleet.give_decode(beat, SESSION, CAPACITY_TOKENS)
    clock.now_s += 3.1
    assert decodes(fleet) == []
    fleet.hear(decode_beat("other"))
    assert fleet._given.all() == []


def test_a_model_is_served_when_both_phases_are_ready_full_or_not() -> None:
    assert not fleet_of().serves(MODEL)
    assert not fleet_of(decode_beat("d")).serves(MODEL)
    assert not fleet_of(prefill_beat("p")).serves(MODEL)
    assert not fleet_of(decode_beat("d"), prefill_beat("p", state=WorkerState.STARTING)).serves(MODEL)
    assert fleet_of(decode_beat("d", sessions=10), prefill_beat("p", queued_tokens=9999)).serves(MODEL)


def test_what_fits_no_decode_even_when_empty_never_fits() -> None:
    fleet = fleet_of(decode_beat("small", kv_total_bytes=50), decode_beat("large", kv_total_bytes=100, kv_free_bytes=0))
    assert fleet.never_fits(MODEL, 101)
    assert not fleet.never_fits(MODEL, 100)
    assert not fleet_of().never_fits(MODEL, 1 << 40)
