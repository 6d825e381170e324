"""The course of a session through its epochs: placed, moved on when workers fail it, ended.

Knows nothing of who reads. `Sessions` takes the tokens of ordinary sessions from it, `KeptSessions` of resumable ones.
"""

from __future__ import annotations

import logging

from services.gateway.metrics import observe_move
from services.gateway.sessions.placing import Placing
from services.gateway.sessions.session import Session
from services.gateway.sessions.suspicion import Suspicion
from shared.core import FinishReason, SampledToken
from shared.errors import BatonError, Draining

logger = logging.getLogger(__name__)


PROGRESS_TOKENS = 16


class Course:
    """`attempts` is how often a session may be placed in a row without `PROGRESS_TOKENS` coming of it."""

    def __init__(self, placing: Placing, suspicion: Suspicion, attempts: int) -> None:
        self._placing = placing
        self._suspicion = suspicion
        self._attempts = attempts

    async def begin(self, session: Session) -> None:
        """Return when workers hold `session`. Raises why none will."""
        await self._suspicion.admit(session)
        await self._placing.place(session)

    async def next_tokens(self, session: Session) -> tuple[list[SampledToken], FinishReason | None]:
        """`Session.next_tokens`, through whatever epochs it takes. Raises what is not worth another one."""
        while True:
            try:
                return await session.next_tokens()
            except BatonError as error:
                await self._place_again(session, error)

    def end(self, session: Session) -> None:
        """The answer is whole, whatever the workers might add."""
        if not session.finished:
            self._placing.cancel(session)
        session.stop()

    async def _place_again(self, session: Session, error: BatonError) -> None:
        """Move the session to a new epoch. Raises `error` when it is not worth a retry or was tried often enough."""
        self._suspicion.over(session)
        self._suspicion.check(session)
        if session.epoch_tokens >= PROGRESS_TOKENS:
            session.failures = 0
        # A worker that leaves in good order has not failed: that may happen to a session any number of times.
        session.failures += not isinstance(error, Draining)
        if session.given_up.is_set() or not error.retryable or session.failures >= self._attempts:
            raise error
        logger.warning("session moves on: %s", error, extra={"session": session.id})
        self._placing.cancel(session)
        observe_move()
        session.moves += 1
        session.begin_epoch(session.epoch + 1)
        await self.begin(session)
