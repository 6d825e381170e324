"""When workers are asked to say again what did not arrive."""

from __future__ import annotations

from typing import Any

import pytest
from frames import frame, placed, request

from services.gateway.sessions import repeats
from services.gateway.sessions.repeats import PAUSE_S, Repeats
from services.gateway.sessions.session import Session
from shared.protocol.to_worker import Awaited, Repeat


class Outbox:
    """Keeps what is posted."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Repeat]] = []

    def post(self, subject: str, message: Repeat) -> None:
        self.posted.append((subject, message))


class Asking:
    """On a clock the test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.outbox: Any = Outbox()
        self.repeats = Repeats(self.outbox, "g", lambda: self.now_s)


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setattr(repeats, "GAP_S", -1.0)
    return Asking()


@pytest.fixture
async def session() -> Session:
    """It has one token."""
    session = Session(request())
    session.place(placed())
    session.on_frame(frame(0, [10]))
    return session


async def test_both_workers_are_asked_from_the_first_token_that_is_missing(asking: Asking, session: Session):
    asking.repeats.ask([session])
    awaited = Repeat(gateway="g", sessions=(Awaited(session=session.id, epoch=0, next_index=1),))
    assert asking.outbox.posted == [
        ("baton.v1.prefill.p0.repeat", awaited),
        ("baton.v1.decode.d0.repeat", awaited),
    ]


async def test_a_session_that_is_held_by_nobody_asks_nobody(asking: Asking):
    asking.repeats.ask([Session(request())])
    assert asking.outbox.posted == []


async def test_one_that_has_ended_asks_nobody(asking: Asking, session: Session):
    session.stop()
    asking.repeats.ask([session])
    assert asking.outbox.posted == []


async def test_a_gap_is_asked_for_at_most_once_in_a_while(asking: Asking, session: Session):
    for _ in range(3):
        asking.repeats.look([session])
    assert len(asking.outbox.posted) == 2
    asking.now_s += PAUSE_S
    asking.repeats.look([session])
    assert len(asking.outbox.posted) == 4


async def test_without_a_gap_nobody_is_asked(session: Session):
    asking = Asking()
    asking.repeats.look([session])
    assert asking.outbox.posted == []
