"""All sessions of a gateway fail at once, for a while: they come back in a stream, not in a storm."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter

import pytest

from services.gateway.sessions.placing import LONGEST_PAUSE_S, RETRIES_PER_S, RetryPace, _pauses

OUTAGE_S = 30.0


class Storm:
    """`sessions` that ask again and again until the outage is over; time passes as they do."""

    def __init__(self, sessions: int) -> None:
        random.seed(sessions)
        self._now_s = 0.0
        self._pace = RetryPace(clock=lambda: self._now_s)
        self.asked_s: list[float] = []
        self.served_s: list[float] = []
        due = [(0.0, number) for number in range(sessions)]
        pauses = [_pauses() for _ in range(sessions)]
        while due:
            self._now_s, number = heapq.heappop(due)
            self.asked_s.append(self._now_s)
            if self._now_s >= OUTAGE_S:
                self.served_s.append(self._now_s)
            else:
                heapq.heappush(due, (self._now_s + self._pace.delay_s() + next(pauses[number]), number))

    def per_second(self) -> Counter[int]:
        """Of the retries alone: the first question of each is what failed."""
        return Counter(int(moment_s) for moment_s in self.asked_s if moment_s > 0)


@pytest.mark.parametrize("sessions", [1, 50, 1000, 4096])
def test_however_many_fail_so_many_retries_come_in_a_second(sessions: int) -> None:
    assert max(Storm(sessions).per_second().values()) <= 1.5 * RETRIES_PER_S


def test_they_do_not_come_in_step() -> None:
    """Those that were asked together meet no more after a few retries."""
    moments_s = sorted(moment_s for moment_s in Storm(1000).asked_s if 5 < moment_s < OUTAGE_S)
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(moments_s)]
    assert max(gaps_s) < 0.2


@pytest.mark.parametrize(("sessions", "within_s"), [(10, 1.5 * LONGEST_PAUSE_S), (4096, 30.0)])
def test_all_are_served_soon_after_the_outage(sessions: int, within_s: float) -> None:
    storm = Storm(sessions)
    assert len(storm.served_s) == sessions
    assert max(storm.served_s) - OUTAGE_S < within_s


def test_one_that_fails_alone_does_not_wait_for_its_turn() -> None:
    now_s = 0.0
    pace = RetryPace(clock=lambda: now_s)
    assert pace.delay_s() == 0.0
    now_s = 1.0
    assert pace.delay_s() == 0.0
    assert pace.delay_s() == pytest.approx(1 / RETRIES_PER_S)
