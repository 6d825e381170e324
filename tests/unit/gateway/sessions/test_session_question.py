"""When a question to a scheduler is given up, and how retries are spread."""

from __future__ import annotations

import pytest

from services.gateway.sessions.placing import SCHEDULER_GRACE_S, TAKEN_WITHIN_S, Question, RetryPace
from shared.bus.liveness import Liveness
from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_gateway import Taken

TAKEN = Taken(session="a" * 32, epoch=0, scheduler="s0", boot="b", connection=1)


class Schedulers:
    """Who lives, on a clock the test turns."""

    def __init__(self) -> None:
        self.now_s = 1.0
        self.liveness = Liveness(lambda: self.now_s)

    def beats(self, name: str, boot: str = "b", connection: int = 1) -> None:
        self.liveness.hear(
            Beat(
                worker=name,
                role=Role.SCHEDULER,
                boot=boot,
                state=WorkerState.READY,
                interval_ms=1000,
                connection=connection,
            )
        )

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
    return Question(lambda: lost.append("lost"), schedulers.now_s, TAKEN_WITHIN_S)


def test_it_is_lost_when_nobody_takes_it_though_schedulers_live(
    schedulers: Schedulers, question: Question, lost: list[str]
):
    """Not always does NATS tell that nobody heard it: someone else may have listened."""
    schedulers.now_s += TAKEN_WITHIN_S
    schedulers.beats("s0")
    schedulers.look(question)
    assert lost == []
    schedulers.now_s += 0.01
    schedulers.look(question)
    schedulers.look(question)
    assert lost == ["lost"]


def test_it_waits_while_its_scheduler_lives(schedulers: Schedulers, question: Question, lost: list[str]):
    question.take(TAKEN)
    for _ in range(5):
        schedulers.beats("s0")
        schedulers.look(question)
        schedulers.now_s += 1.0
    assert lost == []


def test_what_becomes_of_other_schedulers_is_nothing_to_it(schedulers: Schedulers, question: Question, lost: list[str]):
    schedulers.beats("s1")
    question.take(TAKEN)
    schedulers.beats("s1", "b2")
    for _ in range(10):
        schedulers.beats("s0")
        schedulers.look(question)
        schedulers.now_s += 1.0
    assert lost == []


def test_it_is_lost_once_its_scheduler_stays_silent(schedulers: Schedulers, question: Question, lost: list[str]):
    question.take(TAKEN)
    schedulers.now_s += 4.0
    schedulers.look(question)
    assert lost == []
    schedulers.now_s += SCHEDULER_GRACE_S + 0.1
    schedulers.look(question)
    assert lost == ["lost"]


def test_a_scheduler_that_was_only_late_changes_nothing(schedulers: Schedulers, question: Question, lost: list[str]):
    question.take(TAKEN)
    schedulers.now_s += 4.0
    schedulers.look(question)
    schedulers.beats("s0")
    for _ in range(3):
        schedulers.now_s += 0.5
        schedulers.look(question)
    assert lost == []


@pytest.mark.parametrize("news", [{"boot": "b2"}, {"connection": 2}])
def test_it_is_lost_at_once_when_its_scheduler_was_started_or_connected_anew(
    schedulers: Schedulers, question: Question, lost: list[str], news: dict[str, object]
):
    question.take(TAKEN)
    schedulers.beats("s0", **news)  # type: ignore[arg-type]
    schedulers.look(question)
    assert lost == ["lost"]


def test_retries_that_come_together_are_spread():
    pace = RetryPace(per_s=10.0, clock=lambda: 5.0)
    assert [pytest.approx(pace.delay_s()) for _ in range(3)] == [0.0, 0.1, 0.2]
