"""Who is taken for alive, on an injected clock."""

from __future__ import annotations

import msgspec
import pytest

from shared.bus.liveness import MISSED_BEATS, RETURN_S, Liveness
from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState

BEAT = Beat(worker="w", role=Role.DECODE, boot="b1", state=WorkerState.READY, interval_ms=1000, model="m")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def liveness(clock: Clock) -> Liveness:
    return Liveness(clock)


def beat(**changes: object) -> Beat:
    return msgspec.structs.replace(BEAT, **changes)


def test_it_lives_for_so_many_of_its_own_intervals(liveness: Liveness, clock: Clock) -> None:
    liveness.hear(beat())
    clock.now_s = MISSED_BEATS * 1.0
    assert liveness.is_alive(Role.DECODE, "w")
    assert list(liveness.alive(Role.DECODE)) == [beat()]
    clock.now_s += 0.001
    assert not liveness.is_alive(Role.DECODE, "w")
    assert list(liveness.alive(Role.DECODE)) == []


def test_each_beat_counts_anew(liveness: Liveness, clock: Clock) -> None:
    for _ in range(10):
        liveness.hear(beat())
        clock.now_s += 2.9
        assert liveness.is_alive(Role.DECODE, "w")


def test_each_process_has_its_own_interval(liveness: Liveness, clock: Clock) -> None:
    liveness.hear(beat(worker="quick", interval_ms=100))
    liveness.hear(beat(worker="slow", interval_ms=10_000))
    clock.now_s = 1.0
    assert [found.worker for found in liveness.alive(Role.DECODE)] == ["slow"]


def test_nobody_heard_of_is_not_alive(liveness: Liveness) -> None:
    assert not liveness.is_alive(Role.DECODE, "w")


def test_roles_are_told_apart(liveness: Liveness) -> None:
    liveness.hear(beat())
    assert not liveness.is_alive(Role.PREFILL, "w")
    assert list(liveness.alive(Role.PREFILL)) == []


def test_a_farewell_ends_it_at_once(liveness: Liveness) -> None:
    liveness.hear(beat())
    liveness.hear(beat(state=WorkerState.STOPPED))
    assert not liveness.is_alive(Role.DECODE, "w")


def test_a_farewell_of_an_earlier_start_does_not_end_the_present_one(liveness: Liveness) -> None:
    liveness.hear(beat())
    liveness.hear(beat(boot="b2"))
    liveness.hear(beat(state=WorkerState.STOPPED))
    assert liveness.is_alive(Role.DECODE, "w")


def test_a_farewell_of_somebody_unknown_is_nothing(liveness: Liveness) -> None:
    liveness.hear(beat(state=WorkerState.STOPPED))
    assert not liveness.is_alive(Role.DECODE, "w")


@pytest.mark.parametrize(
    ("changes", "ready"),
    [
        ({}, True),
        ({"state": WorkerState.STARTING}, False),
        ({"state": WorkerState.DRAINING}, False),
        ({"model": "another"}, False),
        ({"role": Role.PREFILL}, False),
    ],
    ids=str,
)
def test_ready_is_who_takes_new_work_for_the_model(liveness: Liveness, changes: dict[str, object], ready: bool) -> None:
    liveness.hear(beat(**changes))
    assert bool(liveness.ready(Role.DECODE, "m")) is ready


def test_the_last_beat_is_what_is_known(liveness: Liveness) -> None:
    liveness.hear(beat(sessions=1))
    liveness.hear(beat(sessions=2))
    assert [found.sessions for found in liveness.alive(Role.DECODE)] == [2]


def test_processes_that_come_and_go_are_not_remembered(liveness: Liveness, clock: Clock) -> None:
    """Though nobody ever asks who is alive."""
    for number in range(1000):
        liveness.hear(beat(worker=f"w{number}"))
        clock.now_s += 1.0
    assert len(liveness._beats) <= MISSED_BEATS + 1


def test_nobody_is_taken_for_dead_while_the_listener_is_cut_off(liveness: Liveness, clock: Clock) -> None:
    liveness.hear(beat())
    liveness.suspend()
    clock.now_s = 100.0
    assert liveness.is_alive(Role.DECODE, "w")
    assert [known.worker for known in liveness.alive(Role.DECODE)] == ["w"]
    assert liveness.resumed_for_s() is None


def test_after_that_all_have_time_to_be_heard_again(liveness: Liveness, clock: Clock) -> None:
    liveness.hear(beat())
    liveness.suspend()
    clock.now_s = 100.0
    liveness.resume()
    clock.now_s += RETURN_S + MISSED_BEATS
    assert liveness.is_alive(Role.DECODE, "w")
    assert liveness.resumed_for_s() == RETURN_S + MISSED_BEATS
    clock.now_s += 0.1
    assert not liveness.is_alive(Role.DECODE, "w")


def test_the_boot_tells_a_new_start_from_the_old(liveness: Liveness, clock: Clock) -> None:
    assert liveness.boot(Role.DECODE, "w") is None
    liveness.hear(beat())
    assert liveness.boot(Role.DECODE, "w") == "b1"
    liveness.hear(beat(boot="b2"))
    assert liveness.boot(Role.DECODE, "w") == "b2"


@pytest.fixture
def listener(clock: Clock) -> Liveness:
    """One that beats every second itself."""
    return Liveness(clock, own_interval_s=1.0)


def test_silence_means_nothing_to_a_listener_that_hears_not_even_itself(listener: Liveness, clock: Clock) -> None:
    listener.hear(beat())
    clock.now_s = 100.0
    assert listener.is_alive(Role.DECODE, "w")
    assert len(list(listener.alive(Role.DECODE))) == 1
    assert listener.deaf_for_s() == 100.0


def test_silence_among_others_who_speak_is_death(listener: Liveness, clock: Clock) -> None:
    listener.hear(beat())
    for _ in range(MISSED_BEATS + 1):
        clock.now_s += 1.0
        listener.contact()
    assert not listener.is_alive(Role.DECODE, "w")
    assert listener.resumed_for_s() is None


def test_whoever_was_deaf_gives_all_time_to_be_heard_again(listener: Liveness, clock: Clock) -> None:
    listener.hear(beat())
    clock.now_s = 100.0
    listener.contact()
    while clock.now_s < 100.0 + RETURN_S + MISSED_BEATS:
        assert listener.is_alive(Role.DECODE, "w")
        clock.now_s += 1.0
        listener.contact()
    clock.now_s += 0.1
    listener.contact()
    assert not listener.is_alive(Role.DECODE, "w")


def test_a_listener_that_does_not_beat_judges_by_the_clock_alone(liveness: Liveness, clock: Clock) -> None:
    liveness.hear(beat())
    clock.now_s = 100.0
    liveness.contact()
    assert not liveness.is_alive(Role.DECODE, "w")
    assert liveness.resumed_for_s() is None
