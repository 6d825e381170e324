"""Asking workers to say again what did not arrive: tokens lost with a connection, or on the way.

Much cheaper than moving the session, which the watch does when this does not help. Knows sessions; posts, and waits for
nothing. `Sessions` calls it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from services.gateway.sessions.session import Session
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_worker import Awaited, Repeat

GAP_S = 0.25
PAUSE_S = 0.5


class Repeats:
    """Of the sessions of `gateway`."""

    def __init__(self, outbox: Outbox, gateway: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._outbox = outbox
        self._gateway = gateway
        self._clock = clock
        self._asked_s: dict[str, float] = {}

    def ask(self, sessions: Iterable[Session]) -> None:
        """Both workers of each may have said something that is lost."""
        by_worker: dict[tuple[Role, str], list[Awaited]] = defaultdict(list)
        for session in sessions:
            if session.placed is None or session.finished:
                continue
            self._asked_s[session.id] = self._clock()
            awaited = Awaited(session=session.id, epoch=session.epoch, next_index=session.next_index)
            by_worker[Role.PREFILL, session.placed.prefill].append(awaited)
            by_worker[Role.DECODE, session.placed.decode].append(awaited)
        for (role, worker), awaited_ones in by_worker.items():
            repeat = Repeat(gateway=self._gateway, sessions=tuple(awaited_ones))
            self._outbox.post(subjects.repeat(role, worker), repeat)

    def look(self, sessions: Iterable[Session]) -> None:
        """Ask for those with a gap among their tokens. To be called at an interval."""
        now_s = self._clock()
        self._asked_s = {session: asked_s for session, asked_s in self._asked_s.items() if now_s - asked_s < PAUSE_S}
        self.ask(one for one in sessions if one.missing_for_s() > GAP_S and one.id not in self._asked_s)
