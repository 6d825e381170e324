"""Admission and queue: requests that find no room wait in order of arrival, up to a limit and their deadline.

Streams that lost their workers go before those that have not begun: a client is reading them. That holds for those that
wait in other rooms and at other schedulers, too, as far as both want the same workers.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable

from services.scheduler.placer import Placement
from shared.errors import BatonError, Cancelled, DeadlineExceeded, Draining, Overloaded
from shared.protocol.to_scheduler import PlaceRequest

RATE_WINDOW = 64
RETRY_MIN_MS = 1000
RETRY_MAX_MS = 60_000

TryPlace = Callable[[PlaceRequest, int, frozenset[str]], Awaitable[Placement | None]]
"""Within so many milliseconds, not on decodes of these fingerprints."""

NOTHING: frozenset[str] = frozenset()


class Ticket:
    """One request inside the room: the `number`-th that came. `deadline_s` on the room's clock."""

    def __init__(self, request: PlaceRequest, number: int, deadline_s: float) -> None:
        self.request = request
        self.number = number
        self.deadline_s = deadline_s
        self.woken = asyncio.Event()
        self._ended: BatonError | None = None

    @property
    def rank(self) -> tuple[bool, int]:
        """The least is served first."""
        return (not self.request.begun, self.number)

    def end(self, error: BatonError) -> None:
        """Wait no longer."""
        self._ended = error
        self.woken.set()

    def raise_if_ended(self) -> None:
        if self._ended is not None:
            raise self._ended


class WaitingRoom:
    """Places at once while nobody waits; otherwise the head of the queue tries again when the fleet changes.

    `wanted` is what begun streams wait for, here and elsewhere: a fingerprint, or a model where any of its workers will
    do. Who has not begun leaves that to them. `queue_changed` is called after every change of the queue.
    """

    def __init__(
        self,
        try_place: TryPlace,
        limit: int,
        wanted: Callable[[], frozenset[str]] = lambda: NOTHING,
        queue_changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._try_place = try_place
        self._limit = limit
        self._wanted = wanted
        self._queue_changed = queue_changed
        self._clock = clock
        self._waiting: deque[Ticket] = deque()
        self._inside: dict[tuple[str, int], Ticket] = {}
        self._placed_at_s: deque[float] = deque(maxlen=RATE_WINDOW)
        self._numbers = itertools.count()
        self._changes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def inside(self) -> int:
        """Requests waiting or being placed."""
        return len(self._inside)

    @property
    def has_placed(self) -> bool:
        """Whether it has ever found a place for anybody."""
        return bool(self._placed_at_s)

    @property
    def begun_waits(self) -> bool:
        """Whether a stream that has begun waits."""
        return bool(self._waiting) and self._waiting[0].request.begun

    async def place(self, request: PlaceRequest) -> Placement:
        """Raises Overloaded when the queue is full, DeadlineExceeded, Cancelled, and what placing raises."""
        ticket = Ticket(request, self._number(request), self._clock() + request.deadline_ms / 1000)
        key = (request.session, request.epoch)
        self._inside[key] = ticket
        try:
            placement = None if self._is_behind_others(ticket) else await self._try_at_once(ticket)
            if placement is None:
                placement = await self._queue(ticket)
        finally:
            if self._inside.get(key) is ticket:
                del self._inside[key]
        self._placed_at_s.append(self._clock())
        return placement

    def _is_behind_others(self, ticket: Ticket) -> bool:
        return bool(self._waiting and self._waiting[0].rank < ticket.rank) or self._gives_way(ticket)

    def _gives_way(self, ticket: Ticket) -> bool:
        return not ticket.request.begun and ticket.request.model in self._wanted()

    def _number(self, request: PlaceRequest) -> int:
        """The next one; or that of an older epoch of the session, which ends: its gateway asks anew."""
        if not request.epoch:
            return next(self._numbers)
        older = self._up_to(request.session, request.epoch - 1)
        for ticket in older:
            ticket.end(Cancelled(f"session {request.session} is asked for in epoch {request.epoch}"))
        return min(ticket.number for ticket in older) if older else next(self._numbers)

    def cancel(self, session: str, epoch: int) -> None:
        """Let a request that waits here go, in `epoch` or an older one: who cancels may not know in which it waits.

        One that is being placed right now is the caller's to undo.
        """
        for ticket in self._up_to(session, epoch):
            ticket.end(Cancelled(f"session {session} was cancelled while it waited"))

    def _up_to(self, session: str, epoch: int) -> list[Ticket]:
        """Those of `session` in `epoch` and older ones."""
        return [ticket for (other, waiting), ticket in self._inside.items() if other == session and waiting <= epoch]

    def close(self) -> None:
        """Let all that wait go, with an error that makes their gateways ask another scheduler."""
        for ticket in self._inside.values():
            ticket.end(Draining("the scheduler stops", retry_after_ms=RETRY_MIN_MS))

    def fleet_changed(self) -> None:
        """A worker said something new: the head may try again."""
        self._changes += 1
        self._wake_head()

    def _wake_head(self) -> None:
        if self._waiting:
            self._waiting[0].woken.set()

    def retry_after_ms(self) -> int:
        """How long the queue as it is will take, at the rate of the last placements."""
        now_s = self._clock()
        recent = [placed_s for placed_s in self._placed_at_s if now_s - placed_s <= RETRY_MAX_MS / 1000]
        if len(recent) < 2:
            return RETRY_MIN_MS
        wait_ms = 1000 * (now_s - recent[0]) / len(recent) * (len(self._waiting) + 1)
        return int(min(max(wait_ms, RETRY_MIN_MS), RETRY_MAX_MS))

    async def _queue(self, ticket: Ticket) -> Placement:
        if len(self._waiting) >= self._limit and not ticket.request.begun:
            raise Overloaded(f"{len(self._waiting)} requests wait already", retry_after_ms=self.retry_after_ms())
        bisect.insort(self._waiting, ticket, key=lambda waiting: waiting.rank)
        self._queue_changed()
        try:
            while True:
                await self._woken(ticket)
                if self._waiting[0] is not ticket or self._gives_way(ticket):
                    continue
                placement = await self._attempt(ticket)
                if placement is not None:
                    return placement
        finally:
            self._waiting.remove(ticket)
            self._wake_head()
            self._queue_changed()

    def _left_s(self, ticket: Ticket) -> float:
        return max(0.0, ticket.deadline_s - self._clock())

    async def _woken(self, ticket: Ticket) -> None:
        try:
            async with asyncio.timeout(self._left_s(ticket)):
                await ticket.woken.wait()
        except TimeoutError:
            raise DeadlineExceeded("the request's deadline passed in the queue") from None
        ticket.woken.clear()
        ticket.raise_if_ended()

    async def _try_at_once(self, ticket: Ticket) -> Placement | None:
        """Without waiting. What changed in the fleet meanwhile has woken nobody, so the ticket is woken for it."""
        changes = self._changes
        placement = await self._attempt(ticket)
        if changes != self._changes:
            ticket.woken.set()
        return placement

    async def _attempt(self, ticket: Ticket) -> Placement | None:
        left_s = self._left_s(ticket)
        if left_s <= 0:
            raise DeadlineExceeded("the request's deadline passed in the queue")
        try:
            async with asyncio.timeout(left_s):
                left_to_others = NOTHING if ticket.request.begun else self._wanted()
                placement = await self._try_place(ticket.request, math.ceil(left_s * 1000), left_to_others)
        except TimeoutError:
            raise DeadlineExceeded("the request's deadline passed while it was placed") from None
        if placement is None:
            ticket.raise_if_ended()
        return placement
