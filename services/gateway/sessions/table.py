"""The sessions that run at this gateway: who may enter, whose frame it is, and what is done when one leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from services.gateway.metrics import observe_end
from services.gateway.sessions.placing import Placing
from services.gateway.sessions.session import Session
from services.gateway.sessions.suspicion import Suspicion
from shared.errors import Draining, Overloaded

RETRY_AFTER_MS = 1000


class SessionTable:
    """At most `limit` sessions at once."""

    def __init__(self, placing: Placing, suspicion: Suspicion, limit: int) -> None:
        self._placing = placing
        self._suspicion = suspicion
        self._limit = limit
        self._sessions: dict[str, Session] = {}
        self._draining = False
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    @property
    def draining(self) -> bool:
        return self._draining

    def find(self, session: str) -> Session | None:
        return self._sessions.get(session)

    def admit(self, *, others: int) -> None:
        """Raises Draining, and Overloaded when `others` are as many as may be."""
        if self._draining:
            raise Draining("the gateway takes no new requests", retry_after_ms=RETRY_AFTER_MS)
        if others >= self._limit:
            raise Overloaded(f"{self._limit} generations run already", retry_after_ms=RETRY_AFTER_MS)

    def add(self, session: Session) -> None:
        """Frames of `session` are its own from now on."""
        self._sessions[session.id] = session

    def remove(self, session: Session) -> None:
        """It is over here: free it on the workers, unless they ended it. Idempotent."""
        if self._sessions.get(session.id) is not session:
            return
        del self._sessions[session.id]
        session.left = True
        self._suspicion.over(session)
        if not session.finished:
            self._placing.cancel(session)
        observe_end(session)
        if not self._sessions:
            self._idle.set()

    def drain(self) -> None:
        """Admit nobody any more."""
        self._draining = True

    async def emptied(self) -> None:
        """Return when the last session has left."""
        while self._sessions:
            self._idle.clear()
            await self._idle.wait()
