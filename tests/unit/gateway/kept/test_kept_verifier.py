"""When the journal is looked into."""

from __future__ import annotations

import asyncio

from services.gateway.kept import verifier
from services.gateway.kept.verifier import Verifier
from shared.errors import ResumeUnavailable
from shared.runtime.tasks import Tasks


class Kept:
    """Counts; each look waits until it may go on, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.looks = 0
        self.looking = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self._failures = failures

    async def verify(self) -> None:
        self.looks += 1
        self.looking.set()
        await self.may_go_on.wait()
        if self.looks <= self._failures:
            raise ResumeUnavailable("silent")


async def test_a_break_during_a_look_is_looked_into_again():
    kept = Kept()
    async with Tasks("test") as tasks:
        verifying = Verifier(kept, tasks)  # type: ignore[arg-type]
        verifying.wanted()
        await kept.looking.wait()
        verifying.wanted()
        verifying.wanted()
        assert kept.looks == 1
        kept.may_go_on.set()
        await tasks.drain()
        assert kept.looks == 2
        verifying.wanted()
        await tasks.drain()
        assert kept.looks == 3


async def test_a_journal_that_does_not_answer_is_asked_again(monkeypatch):
    monkeypatch.setattr(verifier, "PAUSE_S", 0.0)
    for failures, looks in ((2, 3), (1000, verifier.ATTEMPTS)):
        kept = Kept(failures)
        kept.may_go_on.set()
        async with Tasks("test") as tasks:
            Verifier(kept, tasks).wanted()  # type: ignore[arg-type]
            await tasks.drain()
        assert kept.looks == looks
