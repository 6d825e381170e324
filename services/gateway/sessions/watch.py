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
DISOWNED_S = 1.0
STALLED_S = 30.0
RESUMED_DECODE_S = 5.0
RESUMED_PREFILL_S = 15.0


class LostWorker(WorkerFailed):
    """The worker, and which start of it, that held the session and is gone. `silent`: as far as one can hear."""

    def __init__(self, message: str, role: Role, worker: str, boot: str, *, silent: bool) -> None:
        super().__init__(message)
        self.role = role
        self.worker = worker
        self.boot = boot
        self.silent = silent


def unnoticed_failure(session: Session, fleet: Liveness) -> WorkerFailed | None:
    """Why the present epoch of `session` will not go on by itself, if so; once, however slow its reader is."""
    if session.failed:
        return None
    lost = _lost_worker(session, fleet)
    if lost is not None:
        return lost
    if session.disowned_for_s() > DISOWNED_S:
        return WorkerFailed("a worker that was cut off does not hold it any more")
    if session.missing_for_s() > MISSING_S:
        return WorkerFailed("tokens were lost on the way")
    return _silence(session, fleet)


def _silence(session: Session, fleet: Liveness) -> WorkerFailed | None:
    """The failure of a session that is stalled; where its decode alone is left to blame, the loss of that."""
    if session.placed is None or session.finished or not _stalled(session, fleet):
        return None
    message = f"nothing was heard of the session for {session.quiet_for_s():.0f} s"
    if not session.handed_off or session.quiet_for_s() <= STALLED_S:
        return WorkerFailed(message)
    decode = (Role.DECODE, session.placed.decode)
    return LostWorker(message, *decode, session.heard.get(decode, ""), silent=False)


def _stalled(session: Session, fleet: Liveness) -> bool:
    """Its workers live and say nothing of it: they are stuck, or their last words were lost with a connection."""
    quiet_s = session.quiet_for_s()
    if session.handed_off and quiet_s > STALLED_S:
        return True
    resumed_s = fleet.resumed_for_s()
    patience_s = RESUMED_DECODE_S if session.handed_off else RESUMED_PREFILL_S
    return resumed_s is not None and quiet_s > resumed_s > patience_s


def _lost_worker(session: Session, fleet: Liveness) -> LostWorker | None:
    """The worker that held the session and is silent, or was started anew.

    One not heard yet, by a young gateway, gets more time.
    """
    for worker in session.needed_workers():
        boot = fleet.boot(*worker)
        if boot is not None:
            if session.heard.setdefault(worker, session.taken_by_boot(worker[0]) or boot) != boot:
                return _lost(session, *worker, silent=False)
        elif worker in session.heard or session.placed_for_s() > UNHEARD_S:
            return _lost(session, *worker, silent=True)
    return None


def _lost(session: Session, role: Role, worker: str, *, silent: bool) -> LostWorker:
    boot = session.heard.get((role, worker), "")
    return LostWorker(f"worker {worker} is gone", role, worker, boot, silent=silent)
