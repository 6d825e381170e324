"""Asking a scheduler who shall hold a session, until one says so.

A failure that may pass is followed by the same question after a pause; a question that is lost, with the scheduler or
the connection that had it, by the question in a new epoch. Knows nothing of tokens. `Sessions` calls it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator

from services.gateway.sessions.session import Session
from shared.bus.connection import Bus, Unreached
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import BatonError, Cancelled, Draining, Overloaded, Unavailable
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel
from shared.protocol.to_gateway import Taken
from shared.protocol.to_scheduler import CancelPlacement, Placed
from shared.runtime.tasks import Tasks

PLACE_MARGIN_S = 1.0
FIRST_PATIENCE_S = 5.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
RETRIES_PER_S = 200.0
SCHEDULER_GRACE_S = 1.0
TAKEN_WITHIN_S = 1.0
LONGEST_TAKEN_WITHIN_S = 8.0


class AnswerLost(Unavailable):
    """Whoever had the question can answer no more, and may have given the session to workers."""


class Question:
    """One that waits for its answer. `lost` is called once, when no answer is to be expected any more.

    Whoever takes it says so at once. Until then it may have reached nobody: a scheduler that is itself cut off, while
    someone else listens to its subject, so that NATS does not tell.
    """

    def __init__(self, lost: Callable[[], None], now_s: float, taken_within_s: float) -> None:
        self._lost = lost
        self._take_until_s = now_s + taken_within_s
        self._taken: Taken | None = None
        self._silent_since_s: float | None = None
        self._given_up = False

    def take(self, taken: Taken) -> None:
        """A scheduler has it."""
        self._taken = taken

    def give_up(self) -> None:
        """Whoever had it, or the answer, is gone."""
        if not self._given_up:
            self._given_up = True
            self._lost()

    def look(self, fleet: Liveness, now_s: float) -> None:
        """Give up when nobody took it, or whoever did was started anew, connected anew, or stays silent."""
        if self._taken is None:
            if now_s > self._take_until_s:
                self.give_up()
            return
        beat = fleet.beat(Role.SCHEDULER, self._taken.scheduler)
        if beat is None:
            self._silent_since_s = self._silent_since_s or now_s
            if now_s - self._silent_since_s > SCHEDULER_GRACE_S:
                self.give_up()
            return
        self._silent_since_s = None
        if beat.boot != self._taken.boot or beat.connection > self._taken.connection:
            self.give_up()


class RetryPace:
    """Spreads retries over time, whoever makes them: `delay_s` reserves the next moment for one."""

    def __init__(self, per_s: float = RETRIES_PER_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 1 / per_s
        self._clock = clock
        self._next_s = clock()

    def delay_s(self) -> float:
        now_s = self._clock()
        moment_s = max(now_s, self._next_s)
        self._next_s = moment_s + self._interval_s
        return moment_s - now_s


class Placing:
    """Places the sessions of `gateway`, whose `tokenizer` has that digest, and takes back what was placed."""

    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        fleet: Liveness,
        tasks: Tasks,
        *,
        gateway: str,
        model: str,
        tokenizer: str = "",
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._fleet = fleet
        self._tasks = tasks
        self._gateway = gateway
        self._model = model
        self._tokenizer = tokenizer
        self._questions: dict[tuple[str, int], Question] = {}
        self._pace = RetryPace()

    async def place(self, session: Session) -> None:
        """Return when workers hold `session`, in its epoch or a newer one. Raises why none will."""
        pauses = _pauses()
        began_s = time.monotonic()
        in_trouble = session.moves > 0
        taken_within_s = TAKEN_WITHIN_S
        while (error := await self._asked(session, taken_within_s)) is not None:
            if session.finished:
                # Only the answer was lost: the workers have done it all meanwhile.
                return
            session.raise_if_given_up()
            if isinstance(error, AnswerLost):
                in_trouble = True
                taken_within_s = min(2 * taken_within_s, LONGEST_TAKEN_WITHIN_S)
                # Nobody knows who was given the session: nobody may hold it.
                self.shut_out(session.id, session.epoch, "its scheduler is gone")
                session.begin_epoch(session.epoch + 1)
            elif session.left_s() <= 0 or time.monotonic() - began_s >= _patience_s(error, in_trouble):
                raise error
            await _pause(session, self._pace.delay_s() + next(pauses))
            session.raise_if_given_up()

    def look(self) -> None:
        """Ask again what reached no scheduler, or died with one. To be called at an interval."""
        if self._fleet.suspended:
            return
        now_s = time.monotonic()
        for question in list(self._questions.values()):
            question.look(self._fleet, now_s)

    def on_taken(self, taken: Taken) -> None:
        """A scheduler has the question."""
        question = self._questions.get((taken.session, taken.epoch))
        if question is not None:
            question.take(taken)

    def reconnected(self) -> None:
        """Answers that came meanwhile are lost."""
        for question in list(self._questions.values()):
            question.give_up()

    def cancel(self, session: Session) -> None:
        """Free the present epoch of `session` wherever it is."""
        if session.placed is not None:
            self._cancel_placed(session.id, session.epoch, session.placed)
        else:
            self._outbox.post(subjects.CANCEL_PLACEMENT, CancelPlacement(session=session.id, epoch=session.epoch))

    async def _asked(self, session: Session, taken_within_s: float) -> BatonError | None:
        """Ask a scheduler. The asking outlives a reader that leaves: what it finds must be cancelled too."""
        asking = self._tasks.start(self._ask(session, session.epoch, taken_within_s), name=f"place {session.id}")
        return await asyncio.shield(asking)

    async def _ask(self, session: Session, epoch: int, taken_within_s: float) -> BatonError | None:
        request = session.place_request(self._gateway, self._model, self._tokenizer)
        timeout_s = session.left_s() + PLACE_MARGIN_S
        key = (session.id, epoch)
        try:
            async with asyncio.timeout(None) as limit:
                self._questions[key] = Question(
                    lambda: limit.reschedule(asyncio.get_running_loop().time()), time.monotonic(), taken_within_s
                )
                placed = await self._bus.request(subjects.PLACE, request, Placed, timeout_s)
        except TimeoutError:
            return AnswerLost("the scheduler that was asked is gone", retry_after_ms=1000)
        except BatonError as error:
            return error
        finally:
            self._questions.pop(key, None)
        if session.left or session.epoch != epoch:
            self._cancel_placed(session.id, epoch, placed)
            return Cancelled("the reader left while the session was placed")
        # At once, not when the reader runs again: it may be leaving already, and cancels what is placed.
        session.place(placed)
        return None

    def shut_out(self, session: str, epoch: int, reason: str) -> None:
        """Nobody may hold `session` in `epoch` or an older one, nor be given it any more, whoever asks."""
        self._outbox.post(subjects.CANCEL_PLACEMENT, CancelPlacement(session=session, epoch=epoch))
        cancel = Cancel(session=session, epoch=epoch, reason=reason)
        for role in (Role.PREFILL, Role.DECODE):
            for beat in self._fleet.alive(role):
                self._outbox.post(subjects.cancel(role, beat.worker), cancel)

    def _cancel_placed(self, session: str, epoch: int, placed: Placed) -> None:
        cancel = Cancel(session=session, epoch=epoch)
        self._outbox.post(subjects.cancel(Role.PREFILL, placed.prefill), cancel)
        self._outbox.post(subjects.cancel(Role.DECODE, placed.decode), cancel)


async def _pause(session: Session, pause_s: float) -> None:
    """Shorter where the session ends before."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, min(pause_s, session.left_s()))):
            await session.given_up.wait()


def _patience_s(error: BatonError, in_trouble: bool) -> float:
    """How long `error` may be met before it is the answer.

    A new request is refused when workers are missing or queues full, so that its client knows and slows down. One that
    was held already, and lost what held it, waits for what comes back.
    """
    if in_trouble and isinstance(error, Unavailable | Overloaded):
        return math.inf
    return FIRST_PATIENCE_S if isinstance(error, Unreached | Draining) else 0.0


def _pauses() -> Iterator[float]:
    """Growing, each give or take half, in seconds."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.5)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
