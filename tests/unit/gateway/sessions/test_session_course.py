"""How often a session is placed anew: as long as something comes of it."""

from __future__ import annotations

from typing import cast

import pytest
from frames import frame, placed, request

from services.gateway.sessions.course import PROGRESS_TOKENS, Course
from services.gateway.sessions.placing import Placing
from services.gateway.sessions.session import Session
from services.gateway.sessions.suspicion import Suspicion
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.errors import BatonError, Draining, InvalidRequest, WorkerFailed

ATTEMPTS = 3


class Workers:
    """Stands for the placing: each placement brings `tokens`, then fails with `error`."""

    def __init__(self, tokens: int, error: BatonError) -> None:
        self._tokens = tokens
        self._error = error
        self.placements = 0

    async def place(self, session: Session) -> None:
        self.placements += 1
        session.place(placed())
        for _ in range(self._tokens):
            session.on_frame(frame(session.received_tokens, [5], session.epoch))
        session.fail(self._error)

    def cancel(self, session: Session) -> None:
        pass


class Nowhere:
    async def publish(self, subject: str, data: bytes) -> None:
        raise AssertionError(subject)


async def tokens_before_it_fails(workers: Workers, most: int) -> int:
    """How many tokens come before the session fails, or `most`."""
    suspicion = Suspicion(Outbox(Nowhere()), Liveness(), gateway="g", model="m", keep_s=60.0)
    course = Course(cast(Placing, workers), suspicion, ATTEMPTS)
    session = Session(request(max_tokens=4096))
    await course.begin(session)
    while session.received_tokens < most:
        try:
            await course.next_tokens(session)
        except BatonError:
            break
    return session.received_tokens


@pytest.mark.parametrize("tokens", [0, 1, PROGRESS_TOKENS - 1])
async def test_one_that_gets_nowhere_fails_after_its_attempts(tokens: int) -> None:
    workers = Workers(tokens, WorkerFailed("gone"))
    assert await tokens_before_it_fails(workers, most=10_000) == tokens * ATTEMPTS
    assert workers.placements == ATTEMPTS


async def test_one_that_gets_on_may_lose_any_number_of_workers() -> None:
    workers = Workers(PROGRESS_TOKENS, WorkerFailed("gone"))
    assert await tokens_before_it_fails(workers, most=20 * PROGRESS_TOKENS) == 20 * PROGRESS_TOKENS


async def test_workers_that_leave_in_good_order_are_no_attempts() -> None:
    workers = Workers(1, Draining("stops"))
    assert await tokens_before_it_fails(workers, most=20) == 20


async def test_what_is_not_worth_another_attempt_is_raised_at_once() -> None:
    workers = Workers(1, InvalidRequest("bad"))
    assert await tokens_before_it_fails(workers, most=20) == 1
    assert workers.placements == 1
