"""The unsent events of one generation: at most one growing delta between its start and its end. No I/O.

Knows sizes and order, not sockets. The outbox owns lanes, a running generation fills its own.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
from msgspec import UNSET

from shared.protocol.to_client import ClientLogprob, Delta, Event, Failed, Finished

ID_BYTES = 8
LOGPROB_BYTES = 48


class GrowingDelta:
    """Deltas of one generation that merge into one until it is taken."""

    def __init__(self, first: Delta) -> None:
        self._index = first.index
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[ClientLogprob] | None = None if first.logprobs is UNSET else []
        self.size_bytes = 0
        self.add(first)

    def add(self, delta: Delta) -> None:
        self._texts.append(delta.text)
        self._token_ids.extend(delta.token_ids)
        self.size_bytes += len(delta.text.encode()) + ID_BYTES * len(delta.token_ids)
        if self._logprobs is not None and not isinstance(delta.logprobs, msgspec.UnsetType):
            self._logprobs.extend(delta.logprobs)
            self.size_bytes += LOGPROB_BYTES * sum(1 + len(logprob.top) for logprob in delta.logprobs)

    def event(self) -> Delta:
        """All that was added, as one delta."""
        return Delta(
            index=self._index,
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            logprobs=UNSET if self._logprobs is None else tuple(self._logprobs),
        )


class Lane:
    """A generation's way to its socket. `n` numbers events as they leave, so what merged has one number."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self.name = name
        self._limit_bytes = limit_bytes
        self._events: deque[Event | GrowingDelta] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._n = 0
        self.ended = False

    def __len__(self) -> int:
        return len(self._events)

    async def room(self) -> None:
        """Wait until the pending delta is below its limit."""
        await self._room.wait()

    def add(self, event: Event) -> None:
        """Put `event` after the others; a delta joins the pending one."""
        if not isinstance(event, Delta):
            self._events.append(event)
            return
        pending = self._events[-1] if self._events else None
        if isinstance(pending, GrowingDelta):
            pending.add(event)
        else:
            pending = GrowingDelta(event)
            self._events.append(pending)
        if pending.size_bytes >= self._limit_bytes:
            self._room.clear()

    def take(self) -> Event:
        """The oldest event, named and numbered. `ended` is true once that was the last of the generation."""
        event = self._events.popleft()
        if isinstance(event, GrowingDelta):
            self._room.set()
            event = event.event()
        self.ended = isinstance(event, Finished | Failed)
        numbered = msgspec.structs.replace(event, id=self.name, n=self._n)
        self._n += 1
        return numbered
