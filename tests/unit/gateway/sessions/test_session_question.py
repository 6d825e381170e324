"""When a question to a scheduler is given up, and how retries are spread."""

from __future__ import annotations

import pytest

from services.gateway.sessions.placing import SCHEDULER_GRACE_S, Question, RetryPace
from shared.bus.liveness import Liveness
from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState


class Schedulers:
    """Who lives, on a clock the test turns."""

    def __init__(self) -> None:
        self.now_s = 1.0
        self.liveness = Liveness(lambda: self.now_s)

    def beats(self, name: str, boot: str = "b") -> None:
        beat = Beat(worker=name, role=Role.SCHEDULER, boot=boot, state=WorkerState.READY, interval_ms=1000)
        self.liveness.hear(beat)

    def look(self, question: Question) -> None:
        question.look(self.liveness, self.now_s)


@pytest.fixture
def schedulers() -> Schedulers:
    return Schedulers()


@pytest.fixture
def lost() -> list[str]:
    """Gets one entry when the question is lost."""
    return []


@pytest.fixture
def question(schedulers: Schedulers, lost: list[str]) -> Question:
    """Asked while s0 lived."""
    schedulers.beats("s0")
    return Question(lambda: lost.append("lost"), schedulers.liveness)


def test_it_waits_while_the_schedulers_live(schedulers: Schedulers, question: Question, lost: list[str]):
    for _ in range(5):
        schedulers.beats("s0")
        schedulers.look(question)
        schedulers.now_s += 1.0
    assert lost == []


def test_it_is_lost_once_a_scheduler_stays_silent(schedulers: Schedulers, question: Question, lost: list[str]):
    schedulers.look(question)
    schedulers.now_s += 4.0
    schedulers.look(question)
    assert lost == []
    schedulers.now_s += SCHEDULER_GRACE_S + 0.1
    schedulers.look(question)
    schedulers.look(question)
    assert lost == ["lost"]


def test_it_is_lost_at_once_when_a_scheduler_was_started_anew(
    schedulers: Schedulers, question: Question, lost: list[str]
):
    schedulers.beats("s0", "b2")
    schedulers.look(question)
    assert lost == ["lost"]


def test_what_was_asked_of_nobody_is_lost_when_somebody_comes(schedulers: Schedulers, lost: list[str]):
    """Not always does NATS tell that nobody heard it: someone else may have listened."""
    question = Question(lambda: lost.append("lost"), schedulers.liveness)
    schedulers.look(question)
    assert lost == []
    schedulers.beats("s0")
    schedulers.look(question)
    assert lost == ["lost"]


def test_a_scheduler_that_was_only_late_changes_nothing(schedulers: Schedulers, question: Question, lost: list[str]):
    schedulers.look(question)
    schedulers.now_s += 4.0
    schedulers.look(question)
    schedulers.beats("s0")
    schedulers.beats("s1")
    for _ in range(3):
        schedulers.now_s += 0.5
        schedulers.look(question)
    assert lost == []


def test_retries_that_come_together_are_spread():
    pace = RetryPace(per_s=10.0, clock=lambda: 5.0)
    assert [pytest.approx(pace.delay_s()) for _ in range(3)] == [0.0, 0.1, 0.2]
