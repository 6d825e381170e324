"""Failures of a session that no message tells of: a silent worker, tokens lost on the way. Decides, and does nothing.

`Sessions.watch` asks at its interval and fails the session, which then moves on.
"""

from __future__ import annotations

from services.gateway.sessions.session import Session
from shared.bus.liveness import Liveness
from shared.core import Role
from shared.errors import WorkerFailed

UNHEARD_S = 3.0
MISSING_S = 2.0


def unnoticed_failure(session: Session, fleet: Liveness) -> WorkerFailed | None:
    """Why the present epoch of `session` will not go on by itself, if so."""
    lost = _lost_worker(session, fleet)
    if lost is not None:
        return WorkerFailed(f"worker {lost} fell silent")
    if session.missing_for_s() > MISSING_S:
        return WorkerFailed("tokens were lost on the way")
    return None


def _lost_worker(session: Session, fleet: Liveness) -> str | None:
    """The worker that holds the session and is silent. One not heard yet, by a young gateway, gets more time."""
    if session.placed is None or session.finished:
        return None
    needed = [(Role.DECODE, session.placed.decode)]
    if not session.handed_off:
        needed.append((Role.PREFILL, session.placed.prefill))
    for worker in needed:
        if fleet.is_alive(*worker):
            session.heard.add(worker)
        elif worker in session.heard or session.placed_for_s() > UNHEARD_S:
            return worker[1]
    return None
