"""What a gateway answers a worker that was cut off and says which sessions it holds. Decides by the sessions alone.

Two questions in one: which of them it may go on with, since nobody has taken them over; and which the gateway still
counts on although the worker holds them no more, so that their last words were lost. Those the watch moves on.
"""

from __future__ import annotations

from services.gateway.sessions.session import Session
from services.gateway.sessions.table import SessionTable
from shared.protocol.to_gateway import HeldSession, HeldSessions, StillHeld


def answer(sessions: SessionTable, held: HeldSessions) -> StillHeld:
    """The sessions of `held` that go on. Those that are missing there are told that they are disowned."""
    there = {(one.session, one.epoch) for one in held.sessions}
    for session in sessions:
        if (held.role, held.worker) in session.needed_workers() and (session.id, session.epoch) not in there:
            session.disown(held.role, held.worker)
    return StillHeld(sessions=tuple(one for one in held.sessions if _counts(sessions.find(one.session), one)))


def _counts(session: Session | None, held: HeldSession) -> bool:
    return session is not None and session.epoch == held.epoch and not session.finished
