"""What a worker that was cut off may go on with, and what is noticed by its silence about the rest."""

from __future__ import annotations

from typing import Any

import pytest
from frames import frame, placed, request

from services.gateway.sessions import watch
from services.gateway.sessions.roll_call import answer
from services.gateway.sessions.session import Session
from services.gateway.sessions.table import SessionTable
from services.gateway.sessions.watch import unnoticed_failure
from shared.bus.liveness import Liveness
from shared.core import Role
from shared.protocol.to_gateway import HandoffReport, HeldSession, HeldSessions

REPORT = HandoffReport(worker="d0", visible_ms=1.0, payload_bytes=10, chunks=1)


@pytest.fixture
async def session() -> Session:
    session = Session(request())
    session.place(placed())
    return session


@pytest.fixture
async def table(session: Session) -> SessionTable:
    unused: Any = None
    table = SessionTable(unused, unused, 10)
    table.add(session)
    return table


def held(*sessions: tuple[str, int], role: Role = Role.DECODE, worker: str = "d0") -> HeldSessions:
    named = tuple(HeldSession(session=session, epoch=epoch) for session, epoch in sessions)
    return HeldSessions(worker=worker, role=role, sessions=named)


async def test_a_session_in_its_epoch_goes_on(table: SessionTable, session: Session):
    assert answer(table, held((session.id, 0))).sessions == (HeldSession(session=session.id, epoch=0),)


async def test_what_has_moved_or_ended_or_is_unknown_does_not(table: SessionTable, session: Session):
    session.begin_epoch(1)
    assert answer(table, held((session.id, 0), ("b" * 32, 0))).sessions == ()
    session.stop()
    assert answer(table, held((session.id, 1))).sessions == ()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "DISOWNED_S", 0.0)


@pytest.mark.parametrize(("role", "worker"), [(Role.DECODE, "d0"), (Role.PREFILL, "p0")])
async def test_a_session_that_its_worker_does_not_hold_fails(
    table: SessionTable, session: Session, role: Role, worker: str, at_once: None
):
    answer(table, held(role=role, worker=worker))
    failure = unnoticed_failure(session, Liveness())
    assert failure is not None
    assert "does not hold it" in failure.message


@pytest.mark.parametrize(
    "word", [held(worker="d1"), held(role=Role.PREFILL, worker="d0"), held(("s", 0), role=Role.PREFILL, worker="p1")]
)
async def test_what_other_workers_hold_is_nothing_to_it(
    table: SessionTable, session: Session, word: HeldSessions, at_once: None
):
    answer(table, word)
    assert unnoticed_failure(session, Liveness()) is None


async def test_prefill_may_let_go_once_the_cache_was_handed_over(table: SessionTable, session: Session, at_once: None):
    answer(table, held(role=Role.PREFILL, worker="p0"))
    session.on_frame(frame(0, [1], handoff=REPORT))
    assert unnoticed_failure(session, Liveness()) is None


async def test_a_new_epoch_knows_nothing_of_it(table: SessionTable, session: Session, at_once: None):
    answer(table, held())
    session.begin_epoch(1)
    session.place(placed(epoch=1))
    assert unnoticed_failure(session, Liveness()) is None
