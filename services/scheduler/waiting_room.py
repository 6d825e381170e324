"""Admission and queue: requests that find no room wait in order of arrival, up to a limit and their deadline."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from services.scheduler.placer import Placement
from shared.errors import Cancelled, DeadlineExceeded, Overloaded
from shared.protocol.to_scheduler import PlaceRequest

RATE_WINDOW = 64
RETRY_MIN_MS = 1000
RETRY_MAX_MS = 60_000

TryPlace = Callable[[PlaceRequest, int], Awaitable[Placement | None]]


class Ticket:
    """One request inside the room. `deadline_s` on the monotonic clock."""

    def __init__(self, request: PlaceRequest, now_s: float) -> None:
        self.request = request
        self.deadline_s = now_s + request.deadline_ms / 1000
        self.woken = asyncio.Event()
        self.cancelled = False

    def left_ms(self) -> int:
        return int((self.deadline_s - time.monotonic()) * 1000)


class WaitingRoom:
    """Places at once while nobody waits; otherwise the head of the queue tries again when the fleet changes."""

    def __init__(self, try_place: TryPlace, limit: int) -> None:
        self._try_place = try_place
        self._limit = limit
        self._waiting: deque[Ticket] = deque()
        self._inside: dict[tuple[str, int], Ticket] = {}
        self._placed_at_s: deque[float] = deque(maxlen=RATE_WINDOW)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def inside(self) -> int:
        """Requests waiting or being placed."""
        return len(self._inside)

    async def place(self, request: PlaceRequest) -> Placement:
        """Raises Overloaded when the queue is full, DeadlineExceeded, Cancelled, and what placing raises."""
        ticket = Ticket(request, time.monotonic())
        self._inside[request.session, request.epoch] = ticket
        try:
            placement = None if self._waiting else await self._attempt(ticket)
            if placement is None:
                placement = await self._queue(ticket)
        finally:
            self._inside.pop((request.session, request.epoch), None)
        self._placed_at_s.append(time.monotonic())
        return placement

    def cancel(self, session: str, epoch: int) -> None:
        """Let a request that waits here go. One that is being placed right now is the caller's to undo."""
        ticket = self._inside.get((session, epoch))
        if ticket is not None:
            ticket.cancelled = True
            ticket.woken.set()

    def fleet_changed(self) -> None:
        """A worker said something new: the head may try again."""
        if self._waiting:
            self._waiting[0].woken.set()

    def retry_after_ms(self) -> int:
        """How long the queue as it is will take, at the rate of the last placements."""
        if len(self._placed_at_s) < 2:
            return RETRY_MIN_MS
        elapsed_s = time.monotonic() - self._placed_at_s[0]
        wait_ms = 1000 * elapsed_s / len(self._placed_at_s) * (len(self._waiting) + 1)
        return int(min(max(wait_ms, RETRY_MIN_MS), RETRY_MAX_MS))

    async def _queue(self, ticket: Ticket) -> Placement:
        if len(self._waiting) >= self._limit:
            raise Overloaded(f"{len(self._waiting)} requests wait already", retry_after_ms=self.retry_after_ms())
        self._waiting.append(ticket)
        try:
            while True:
                await self._woken(ticket)
                if self._waiting[0] is not ticket:
                    continue
                placement = await self._attempt(ticket)
                if placement is not None:
                    return placement
        finally:
            self._waiting.remove(ticket)
            self.fleet_changed()

    async def _woken(self, ticket: Ticket) -> None:
        try:
            async with asyncio.timeout(max(0.0, ticket.deadline_s - time.monotonic())):
                await ticket.woken.wait()
        except TimeoutError:
            raise DeadlineExceeded("the request's deadline passed in the queue") from None
        ticket.woken.clear()
        _raise_if_cancelled(ticket)

    async def _attempt(self, ticket: Ticket) -> Placement | None:
        left_ms = ticket.left_ms()
        if left_ms <= 0:
            raise DeadlineExceeded("the request's deadline passed in the queue")
        placement = await self._try_place(ticket.request, left_ms)
        if placement is None:
            _raise_if_cancelled(ticket)
        return placement


def _raise_if_cancelled(ticket: Ticket) -> None:
    if ticket.cancelled:
        raise Cancelled(f"session {ticket.request.session} was cancelled while it waited")
