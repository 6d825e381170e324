"""The lease, on an injected clock."""

from __future__ import annotations

import pytest

from shared.bus.lease import LEASE_BEATS, REMEMBERED, Lease
from shared.bus.liveness import MISSED_BEATS, Liveness
from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    return Lease(1.0, clock)


def test_it_begins_with_the_process(lease: Lease, clock: Clock) -> None:
    assert lease.left_s() == LEASE_BEATS
    clock.now_s += LEASE_BEATS + 1
    assert lease.left_s() == -1


def test_a_beat_that_came_back_counts_from_when_it_was_sent(lease: Lease, clock: Clock) -> None:
    number = lease.sent()
    clock.now_s += 2.0
    lease.heard(number)
    assert lease.left_s() == LEASE_BEATS - 2.0


def test_beats_that_do_not_come_back_give_nothing(lease: Lease, clock: Clock) -> None:
    for _ in range(10):
        lease.sent()
        clock.now_s += 1.0
    assert lease.left_s() == LEASE_BEATS - 10


def test_a_beat_that_comes_late_or_twice_does_not_shorten_it(lease: Lease, clock: Clock) -> None:
    first = lease.sent()
    clock.now_s += 1.0
    second = lease.sent()
    lease.heard(second)
    lease.heard(first)
    lease.heard(second)
    assert lease.left_s() == LEASE_BEATS


def test_a_number_never_sent_gives_nothing(lease: Lease, clock: Clock) -> None:
    clock.now_s += 1.0
    lease.heard(7)
    assert lease.left_s() == LEASE_BEATS - 1.0


def test_what_is_remembered_is_bounded(lease: Lease) -> None:
    for _ in range(3 * REMEMBERED):
        lease.sent()
    assert len(lease._sent_s) == REMEMBERED


@pytest.mark.parametrize("on_the_way_s", [0.0, 0.3, 2.0])
def test_it_is_over_before_anybody_takes_the_process_for_dead(on_the_way_s: float, clock: Clock) -> None:
    """However long the last beat took to whoever listens, and to its sender."""
    lease, liveness = Lease(1.0, clock), Liveness(clock)
    number = lease.sent()
    clock.now_s += on_the_way_s
    liveness.hear(
        Beat(worker="w", role=Role.DECODE, boot="b", state=WorkerState.READY, interval_ms=1000, number=number)
    )
    lease.heard(number)
    while lease.left_s() > 0:
        clock.now_s += 0.05
    assert liveness.is_alive(Role.DECODE, "w")
    clock.now_s += MISSED_BEATS
    assert not liveness.is_alive(Role.DECODE, "w")
