"""In which order workers hear of a session."""

from __future__ import annotations

from typing import cast

import pytest
from scheduler_words import FINGERPRINT, request

from services.scheduler.workers import BusWorkers
from shared.bus.connection import Bus
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel, Claim
from shared.protocol.to_prefill import RunPrefill
from shared.protocol.wire import Message
from shared.runtime.tasks import Tasks

WANTED = request()
CLAIM = Claim(
    session=WANTED.session,
    epoch=0,
    gateway="g0",
    fingerprint=FINGERPRINT,
    prompt_ids=WANTED.prompt_ids,
    max_tokens=1,
    sampling=WANTED.sampling,
    deadline_ms=1000,
)
RUN = RunPrefill(
    session=WANTED.session,
    epoch=0,
    gateway="g0",
    fingerprint=FINGERPRINT,
    prompt_ids=WANTED.prompt_ids,
    max_tokens=1,
    sampling=WANTED.sampling,
    deadline_ms=1000,
    decode="d0",
    transfer=1,
    credit_bytes=1,
)


class Wire:
    """A bus that notes what goes out."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def publish(self, subject: str, _data: bytes) -> None:
        self.subjects.append(subject)

    async def request(self, subject: str, *_: object) -> Message:
        self.subjects.append(subject)
        return Message()


@pytest.mark.parametrize("role", [Role.DECODE, Role.PREFILL])
async def test_what_was_taken_back_is_over_before_it_is_asked_for_again(role: Role) -> None:
    """In the same epoch: a cancel that came after would end what has just been granted."""
    wire = Wire()
    async with Tasks("test") as tasks:
        outbox = Outbox(wire)
        tasks.start(outbox.run(), name="outbox")
        workers = BusWorkers(cast(Bus, wire), outbox, timeout_s=1.0)
        workers.cancel(role, "w0", Cancel(session=WANTED.session, epoch=0, fence=False))
        if role is Role.DECODE:
            await workers.claim("w0", CLAIM)
        else:
            await workers.run("w0", RUN)
    asked = subjects.claim("w0") if role is Role.DECODE else subjects.run("w0")
    assert wire.subjects == [subjects.cancel(role, "w0"), asked]
