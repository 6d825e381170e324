"""The resumable sessions of one gateway: opened, read, left, resumed here or from the journal, ended.

A session whose reader has gone runs on for `grace_s`. Then its memory is freed on the workers; the journal still has
it, and any gateway can go on with it. Who does takes it over: becomes its owner in the journal, which one at a time
can, in a tenure whose epochs are above all others; shuts the older ones out at schedulers and workers; tells the other
gateways.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from services.gateway.generation import Delta, GenerationRequest, Resumed
from services.gateway.journal.history import History
from services.gateway.journal.journal import Journal
from services.gateway.kept.driver import Driver
from services.gateway.kept.recent import Recent
from services.gateway.kept.session import KeptSession
from services.gateway.kept.transcript import Reader
from services.gateway.kept.writer import JournalWriter
from services.gateway.metrics import observe_resume
from services.gateway.sessions.course import Course
from services.gateway.sessions.placing import Placing
from services.gateway.sessions.running import RunningGeneration
from services.gateway.sessions.table import SessionTable
from services.gateway.sessions.text import RestWriter, with_timings
from shared.bus.liveness import Liveness
from shared.core import FinishReason
from shared.errors import (
    BatonError,
    InvalidRequest,
    ProtocolError,
    ResumeUnavailable,
    SessionNotFound,
    SessionTaken,
    Unavailable,
)
from shared.protocol.journal import Appended, TakenOver, first_epoch
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

# Ids become parts of subjects: nothing else may.
_SESSION_ID = re.compile(r"[0-9a-f]{32}")
TAKEN_HERE = "the session was resumed by another client"
LET_GO = "the session is not at this gateway any more: resume it again"
RETRY_AFTER_MS = 1000
REWRITTEN_WITHIN_S = 10.0
# Of answers that have ended and had a reader, prompts included.
ENDED_TOKENS = 1 << 18
TAKEN_ELSEWHERE = "the session was resumed at another gateway"


class KeptLinks(msgspec.Struct, frozen=True, kw_only=True):
    """What resumable sessions need of the sessions around them."""

    table: SessionTable
    placing: Placing
    course: Course
    journal: Journal
    writer: JournalWriter
    fleet: Liveness
    tasks: Tasks
    tokenizer: Tokenizer


class KeptSessions:
    """`grace_s`: how long a session without a reader is kept."""

    def __init__(self, links: KeptLinks, *, grace_s: float) -> None:
        self._links = links
        self._grace_s = grace_s
        self._kept: dict[str, KeptSession] = {}
        self._adopting: dict[str, asyncio.Task[KeptSession | BatonError]] = {}
        self._overtaken: dict[str, int] = {}
        self._ended = Recent(ENDED_TOKENS)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[RunningGeneration]:
        """A new session. It can be resumed from the moment its id is known."""
        table = self._links.table
        table.admit(others=len(table))
        kept = KeptSession.opened(request)
        await self._links.journal.open(kept.id, request)
        self._keep(kept)
        async with self._read(kept, 0) as generation:
            yield generation

    async def resume(self, session: str, after: int) -> Resumed:
        """See `services.gateway.generation.Generator.resume`."""
        if not _SESSION_ID.fullmatch(session):
            raise SessionNotFound("there is no such session", param="session")
        kept = self._kept.get(session)
        if kept is None:
            kept = await self._adopted(session, after)
        else:
            observe_resume("here")
        if not 0 <= after <= kept.request.max_tokens:
            raise InvalidRequest(f"after must be from 0 to {kept.request.max_tokens}", param="after")
        return Resumed(kept.request, self._read(kept, after))

    async def end(self, session: str) -> None:
        """See `services.gateway.generation.Generator.end`."""
        if not _SESSION_ID.fullmatch(session):
            raise SessionNotFound("there is no such session", param="session")
        kept = self._kept.get(session)
        if kept is not None:
            self._cancel(kept)
            return
        history = await self._take(session)
        if not history.ended:
            self._links.placing.shut_out(session, first_epoch(history.tenure) - 1, "cancelled by its client")
            end = Appended(
                tenure=history.tenure, index=len(history.tokens), ids=b"", left_ms=0, finish=FinishReason.CANCELLED
            )
            await self._links.journal.append(session, end)

    def on_taken_over(self, _subject: str, data: bytes) -> None:
        """Listener: another gateway has taken a session over."""
        try:
            taken = decode(TakenOver, data)
        except ProtocolError as error:
            logger.warning("message refused: %s", error)
            return
        if taken.session in self._adopting:
            self._overtaken[taken.session] = max(taken.tenure, self._overtaken.get(taken.session, 0))
        self._lose(taken.session, taken.tenure)

    def look(self) -> None:
        """Let go of those nobody has read for too long. To be called at an interval."""
        grace_s = 0.0 if self._links.table.draining else self._grace_s
        for kept in list(self._kept.values()):
            if not kept.transcript.is_read and kept.unread_for_s() >= grace_s:
                self._release(kept, Unavailable(LET_GO, retry_after_ms=RETRY_AFTER_MS))

    async def verify(self) -> None:
        """After a break: what the journal has lost is written again, what another gateway has taken is let go.

        What runs comes first.
        """
        journal = self._links.journal
        for kept in sorted(self._kept.values(), key=lambda kept: kept.transcript.ended):
            tenure = await journal.keep_again(kept.id, kept.request, kept.tenure)
            if tenure > kept.tenure:
                self._lose(kept.id, tenure)
            else:
                kept.page.rewrite()
                self._links.writer.note(kept.page)

    def let_go(self, error: BatonError) -> None:
        """Of all; other gateways may go on with them. Readers get `error`."""
        for kept in list(self._kept.values()):
            self._release(kept, error)

    async def close(self) -> None:
        """Let go of all, and see them in the journal. Idempotent."""
        drivers = [kept.driver for kept in self._kept.values() if kept.driver is not None]
        self.let_go(Unavailable(LET_GO, retry_after_ms=RETRY_AFTER_MS))
        if drivers:
            await asyncio.wait(drivers)
        await self._links.writer.flush()

    def _keep(self, kept: KeptSession) -> None:
        self._kept[kept.id] = kept
        if not kept.transcript.ended:
            self._links.table.add(kept.session)
            kept.driver = self._links.tasks.start(self._drive(kept), name=f"session {kept.id}")

    async def _drive(self, kept: KeptSession) -> None:
        links = self._links
        try:
            await Driver(kept, links.course, links.writer, links.tokenizer).run()
        finally:
            links.table.remove(kept.session)

    async def _adopted(self, session: str, after: int) -> KeptSession:
        """From the journal, once for all who ask meanwhile. It outlives who asks first: others wait for it too."""
        adopting = self._adopting.get(session)
        if adopting is None:
            adopting = self._links.tasks.start(self._adopt(session, after), name=f"resume {session}")
            self._adopting[session] = adopting
            adopting.add_done_callback(lambda _: self._adopted_or_not(session))
        found = await asyncio.shield(adopting)
        if isinstance(found, BatonError):
            raise found
        return found

    def _adopted_or_not(self, session: str) -> None:
        self._adopting.pop(session, None)
        self._overtaken.pop(session, None)

    async def _adopt(self, session: str, after: int) -> KeptSession | BatonError:
        links = self._links
        try:
            links.table.admit(others=len(links.table))
            history = await self._take(session)
        except BatonError as error:
            return error
        if self._overtaken.get(session, 0) > history.tenure:
            return SessionTaken(TAKEN_ELSEWHERE)
        observe_resume("ended" if history.ended else "taken")
        kept = KeptSession.resumed(history, after)
        if not history.ended:
            links.placing.shut_out(session, kept.session.epoch - 1, "its client resumed it at another gateway")
        self._keep(kept)
        return kept

    async def _take(self, session: str) -> History:
        """`Journal.take`. A NATS that was gone may have lost the journal: gateways write it again."""
        try:
            return await self._links.journal.take(session)
        except SessionNotFound as error:
            back_for_s = self._links.fleet.resumed_for_s()
            if back_for_s is None or back_for_s > REWRITTEN_WITHIN_S:
                raise
            message = "the session is not in the journal, which may yet be written again: NATS was gone a moment ago"
            raise ResumeUnavailable(message, param="session", retry_after_ms=RETRY_AFTER_MS) from error

    @asynccontextmanager
    async def _read(self, kept: KeptSession, after: int) -> AsyncIterator[RunningGeneration]:
        if self._kept.get(kept.id) is not kept and not kept.transcript.ended:
            raise Unavailable(LET_GO, retry_after_ms=RETRY_AFTER_MS)
        reader = kept.transcript.attach(SessionTaken(TAKEN_HERE))
        deltas = self._deltas(kept, reader, after)
        generation = RunningGeneration(kept.id, deltas)
        try:
            yield generation
        finally:
            await deltas.aclose()
            if kept.transcript.detach(reader):
                kept.unread()
                if generation.cancelled:
                    self._cancel(kept)
                elif kept.transcript.ended:
                    self._read_out(kept)

    async def _deltas(self, kept: KeptSession, reader: Reader, after: int) -> AsyncGenerator[Delta, None]:
        writer = RestWriter(self._links.tokenizer, kept.request, after)
        while True:
            tokens, finish = await reader.next()
            for delta in writer.write(tokens, finish):
                if delta.finish is not None:
                    yield with_timings(delta, kept.transcript.timings)
                    return
                yield delta

    def _read_out(self, ended: KeptSession) -> None:
        """It stays for a while: what was written to a socket need not have arrived. Those before it, up to a limit."""
        for session in self._ended.add(ended.id, ended.size):
            kept = self._kept.get(session)
            if kept is not None and not kept.transcript.is_read:
                self._release(kept, Unavailable(LET_GO, retry_after_ms=RETRY_AFTER_MS))

    def _cancel(self, kept: KeptSession) -> None:
        """Its client wants no more of it."""
        self._kept.pop(kept.id, None)
        if not kept.transcript.ended:
            kept.transcript.extend((), FinishReason.CANCELLED, None)
            self._links.writer.note(kept.page)
        self._stop(kept)

    def _release(self, kept: KeptSession, error: BatonError) -> None:
        """It is freed here; the journal has it. What is not written yet will be, the end of this reading will not."""
        self._kept.pop(kept.id, None)
        kept.page.closed = True
        self._links.writer.note(kept.page)
        kept.transcript.dismiss(error)
        self._stop(kept)

    def _lose(self, session: str, tenure: int) -> None:
        """Another gateway has it, in `tenure`: here it is over, unless ours is that one."""
        kept = self._kept.get(session)
        if kept is None or kept.tenure >= tenure:
            return
        logger.info("session was taken over by another gateway", extra={"session": session})
        del self._kept[session]
        self._links.writer.drop(kept.page)
        kept.transcript.dismiss(SessionTaken(TAKEN_ELSEWHERE))
        self._stop(kept)

    def _stop(self, kept: KeptSession) -> None:
        self._links.table.remove(kept.session)
        if kept.driver is not None:
            kept.driver.cancel()
