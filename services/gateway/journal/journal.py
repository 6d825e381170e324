"""The journal: records of resumable sessions in a stream of JetStream, which every gateway may read.

Only requests and ownership are confirmed before anyone acts on them. Tokens follow at an interval, unconfirmed: they
depend on the request alone, so what is lost of them is computed again. `KeptSessions` calls it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.gateway.generation import GenerationRequest
from services.gateway.journal.history import History, opened
from shared.bus.connection import Bus, Unreached
from shared.bus.memory_stream import MemoryStream, NoJetStream, Stored, StreamLimits, WrittenMeanwhile
from shared.errors import BatonError, DeadlineExceeded, ProtocolError, ResumeUnavailable, SessionNotFound, Unavailable
from shared.protocol import subjects
from shared.protocol.journal import Appended, Opened, Owned, TakenOver
from shared.protocol.wire import decode

logger = logging.getLogger(__name__)

STREAM = "BATON_JOURNAL"
RETRY_AFTER_MS = 1000
RACES = 8
PATIENCE_S = 15.0
PAUSE_S = 0.1

T = TypeVar("T")


class Journal:
    """That of `gateway`, which serves `model`."""

    def __init__(self, bus: Bus, limits: StreamLimits, *, gateway: str, model: str) -> None:
        self._bus = bus
        self._stream = MemoryStream(bus, STREAM, subjects.JOURNAL, limits)
        self._gateway = gateway
        self._model = model
        self._prepared = False

    async def prepare(self) -> None:
        """Make sure that there is a stream. Raises ResumeUnavailable."""
        try:
            await self._stream.ensure()
        except NoJetStream as error:
            raise ResumeUnavailable(f"requests cannot be resumable here: {error}", param="resumable") from error
        except (Unavailable, DeadlineExceeded) as error:
            raise _silent(error) from error
        self._prepared = True

    async def open(self, session: str, request: GenerationRequest) -> None:
        """Keep `request`: when this returns, any gateway can go on with it.

        Raises ResumeUnavailable.
        """
        record = opened(session, request, gateway=self._gateway, model=self._model)
        await _patiently(lambda: self._put_request(record), min(PATIENCE_S, request.deadline_s))

    async def _put_request(self, record: Opened) -> None:
        try:
            if not self._prepared:
                await self.prepare()
            try:
                await self._stream.put(subjects.journal_request(record.session), record)
            except Unreached:
                await self.prepare()
                await self._stream.put(subjects.journal_request(record.session), record)
        except (Unavailable, DeadlineExceeded) as error:
            raise _silent(error) from error

    async def find(self, session: str) -> History:
        """Raises SessionNotFound and ResumeUnavailable."""
        try:
            history = History.of(await self._read(f"{subjects.journal(session)}.>"))
        except ProtocolError as error:
            logger.warning("journal cannot be read: %s", error, extra={"session": session})
            history = None
        if history is None:
            raise SessionNotFound("there is no such session, or it was too long ago", param="session")
        if history.model != self._model:
            raise SessionNotFound(f"the session is one of model {history.model!r}", param="session")
        return history

    async def take(self, session: str) -> History:
        """Become the owner of `session` in a new tenure, unless it has ended; all gateways are told.

        Of several who try at once each gets it in turn, and the last one has it. Raises what `find` does.
        """
        for _ in range(RACES):
            history = await self.find(session)
            if history.ended:
                return history
            try:
                await self._own(session, history.tenure + 1, history.owner_sequence)
            except WrittenMeanwhile:
                continue
            history.tenure += 1
            return history
        raise ResumeUnavailable("too many resume this session at once", retry_after_ms=RETRY_AFTER_MS)

    async def keep_again(self, session: str, request: GenerationRequest, tenure: int) -> int:
        """Be in the journal as the owner in `tenure`, whatever it has lost; the tokens are the caller's to append.

        Returns the tenure that counts: a higher one is another gateway's. Raises ResumeUnavailable.
        """
        while True:
            now, sequence = await self._owner(session)
            if now > tenure:
                return now
            await self.open(session, request)
            try:
                if now < tenure:
                    await self._own(session, tenure, sequence)
            except WrittenMeanwhile:
                continue
            return tenure

    async def _own(self, session: str, tenure: int, sequence: int) -> None:
        """Raises WrittenMeanwhile when the owner's record is not that of `sequence` any more; and ResumeUnavailable."""
        await _patiently(lambda: self._own_once(session, tenure, sequence), PATIENCE_S)

    async def _own_once(self, session: str, tenure: int, sequence: int) -> None:
        owned = Owned(tenure=tenure, gateway=self._gateway)
        try:
            await self._stream.put(subjects.journal_owner(session), owned, expect=sequence)
            await self._bus.send(subjects.TAKEN_OVER, TakenOver(session=session, tenure=tenure))
        except (Unavailable, DeadlineExceeded) as error:
            raise _silent(error) from error

    async def _owner(self, session: str) -> tuple[int, int]:
        """The tenure, and the sequence of the record that says so; 0 and 0 without one."""
        records = await self._read(subjects.journal_owner(session))
        try:
            return max(((decode(Owned, record.data).tenure, record.sequence) for record in records), default=(0, 0))
        except ProtocolError as error:
            raise _silent(error) from error

    async def _read(self, subject: str) -> list[Stored]:
        return await _patiently(lambda: self._read_once(subject), PATIENCE_S)

    async def _read_once(self, subject: str) -> list[Stored]:
        try:
            try:
                return await self._stream.read(subject)
            except Unreached:
                await self.prepare()
                return await self._stream.read(subject)
        except (Unavailable, DeadlineExceeded) as error:
            raise _silent(error) from error

    async def append(self, session: str, appended: Appended) -> None:
        """Note tokens, or the end. Lost where it cannot be sent."""
        try:
            await self._stream.append(subjects.journal_tokens(session), appended)
        except BatonError as error:
            logger.debug("not in the journal: %s", error, extra={"session": session})


async def _patiently(attempt: Callable[[], Awaitable[T]], patience_s: float) -> T:
    """Again while NATS is gone, or its cluster elects, as requests wait that need no journal. Raises the last error."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            return await attempt()
        except ResumeUnavailable as error:
            if error.retry_after_ms is None or time.monotonic() >= until_s:
                raise
        await asyncio.sleep(PAUSE_S)


def _silent(error: BatonError) -> ResumeUnavailable:
    return ResumeUnavailable(f"the journal does not answer: {error}", param="resumable", retry_after_ms=RETRY_AFTER_MS)
