"""What one socket has yet to send: a lane per generation, taken in turn, and notices that belong to none. No I/O.

Knows order and bounds. The multiplexer fills it, the socket's writer empties it.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from services.gateway.websocket.lane import Lane
from shared.protocol.to_client import Event


class Outbox:
    """Bounded by `notice_limit` notices and `pending_limit_bytes` for each open lane."""

    def __init__(self, *, pending_limit_bytes: int, notice_limit: int) -> None:
        self._pending_limit_bytes = pending_limit_bytes
        self._notice_limit = notice_limit
        self._lanes: dict[str, Lane] = {}
        self._turns: deque[Lane] = deque()
        self._notices: deque[Event] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._seq = 0

    def __contains__(self, name: str) -> bool:
        return name in self._lanes

    def __len__(self) -> int:
        """Lanes whose last event has not been taken."""
        return len(self._lanes)

    @property
    def flooded(self) -> bool:
        """Whether the client causes more notices than it reads."""
        return len(self._notices) > self._notice_limit

    def open(self, name: str) -> Lane:
        """A lane for a new generation; it closes when its last event is taken."""
        lane = self._lanes[name] = Lane(name, self._pending_limit_bytes)
        self._emptied.clear()
        return lane

    def notice(self, event: Event) -> None:
        """Send `event`, which belongs to no running generation, before all others."""
        self._notices.append(event)
        self._filled.set()
        self._emptied.clear()

    async def put(self, lane: Lane, event: Event) -> None:
        """Send `event` on `lane`, then wait until there is room for another."""
        if not lane:
            self._turns.append(lane)
        lane.add(event)
        self._filled.set()
        await lane.room()

    async def next(self) -> Event:
        """The next event to send, numbered; waits for one."""
        while not self._notices and not self._turns:
            self._filled.clear()
            await self._filled.wait()
        event = self._notices.popleft() if self._notices else self._next_turn()
        numbered = msgspec.structs.replace(event, seq=self._seq)
        self._seq += 1
        return numbered

    def sent(self) -> None:
        """What `next` gave has left: an outbox with nothing more to come is empty now."""
        if not self._notices and not self._lanes:
            self._emptied.set()

    async def empty(self) -> None:
        """Wait until every generation has ended and everything has been sent."""
        await self._emptied.wait()

    def _next_turn(self) -> Event:
        lane = self._turns.popleft()
        event = lane.take()
        if lane:
            self._turns.append(lane)
        if lane.ended:
            del self._lanes[lane.name]
        return event
