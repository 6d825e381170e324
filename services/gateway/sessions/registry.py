"""All generations of one gateway: starts them, feeds them frames, ends them on the workers.

`services.gateway.generation.Generator` over the bus. A session whose worker fails is placed again in a new epoch, with
prompt and emitted tokens, and goes on at the next index; the reader notices nothing but the pause.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from services.gateway.generation import Delta, GenerationRequest, Resumed
from services.gateway.journal.journal import Journal
from services.gateway.kept.sessions import KeptLinks, KeptSessions
from services.gateway.kept.verifier import Verifier
from services.gateway.kept.writer import JournalWriter
from services.gateway.sessions.course import Course
from services.gateway.sessions.placing import Placing
from services.gateway.sessions.repeats import Repeats
from services.gateway.sessions.roll_call import answer
from services.gateway.sessions.running import RunningGeneration
from services.gateway.sessions.session import Session
from services.gateway.sessions.strays import Strays
from services.gateway.sessions.suspicion import Suspicion
from services.gateway.sessions.table import SessionTable
from services.gateway.sessions.text import DeltaWriter, with_timings
from services.gateway.sessions.watch import LostWorker, unnoticed_failure
from shared.bus.connection import Bus
from shared.bus.liveness import Liveness
from shared.bus.memory_stream import StreamLimits
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import BatonError, ProtocolError
from shared.protocol import subjects
from shared.protocol.to_gateway import HeldSessions, StillHeld, Taken, TokenBatch, TokenFrame
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.25
FROZEN_S = 2.0


class SessionLinks(msgspec.Struct, frozen=True, kw_only=True):
    """What sessions need of the gateway around them."""

    bus: Bus
    outbox: Outbox
    fleet: Liveness
    tasks: Tasks


class KeepSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How resumable sessions are kept: without a reader for `grace_s`; in the journal, written every `interval_s`."""

    grace_s: float = 30.0
    interval_s: float = 0.5
    limits: StreamLimits = StreamLimits(max_bytes=64 << 20, max_age_s=1800)


class Sessions:
    """`attempts` is how often a session may be placed in vain, `session_limit` how many may run at once.

    `quarantine_s` is how long a prompt that crashed two workers is refused.
    """

    def __init__(
        self,
        links: SessionLinks,
        tokenizer: Tokenizer,
        *,
        gateway: str,
        model: str,
        session_limit: int,
        attempts: int,
        quarantine_s: float,
        keep: KeepSettings | None = None,
    ) -> None:
        keep = keep or KeepSettings()
        self._outbox = links.outbox
        self._fleet = links.fleet
        self._placing = Placing(
            links.bus,
            links.outbox,
            links.fleet,
            links.tasks,
            gateway=gateway,
            model=model,
            tokenizer=tokenizer.digest,
        )
        self.suspicion = Suspicion(links.outbox, links.fleet, gateway=gateway, model=model, keep_s=quarantine_s)
        self._course = Course(self._placing, self.suspicion, attempts)
        self._table = SessionTable(self._placing, self.suspicion, session_limit)
        self._strays = Strays()
        self._repeats = Repeats(links.outbox, gateway)
        self._tokenizer = tokenizer
        self._journal = Journal(links.bus, keep.limits, gateway=gateway, model=model)
        self._writer = JournalWriter(self._journal, keep.interval_s)
        self._kept = KeptSessions(
            KeptLinks(
                table=self._table,
                placing=self._placing,
                course=self._course,
                journal=self._journal,
                writer=self._writer,
                fleet=links.fleet,
                tasks=links.tasks,
                tokenizer=tokenizer,
            ),
            grace_s=keep.grace_s,
        )
        self._verifier = Verifier(self._kept, links.tasks)

    def __len__(self) -> int:
        return len(self._table)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[RunningGeneration]:
        """See `services.gateway.generation.Generator.generate`."""
        kind = self._kept.generate(request) if request.resumable else self._generate(request)
        async with kind as generation:
            yield generation

    async def resume(self, session: str, after: int) -> Resumed:
        """See `services.gateway.generation.Generator.resume`."""
        return await self._kept.resume(session, after)

    async def end(self, session: str) -> None:
        """See `services.gateway.generation.Generator.end`."""
        await self._kept.end(session)

    async def drain(self) -> None:
        """Refuse new generations; return when the last one has ended. Those that nobody reads end at once."""
        self._table.drain()
        self._kept.look()
        await self._table.emptied()

    async def close(self) -> None:
        """Let go of resumable sessions; the journal has them. Idempotent."""
        await self._kept.close()

    def end_all(self, error: BatonError) -> None:
        """End every generation with `error`, wherever it is; resumable ones are left to other gateways."""
        self._table.drain()
        self._kept.let_go(error)
        for session in self._table:
            session.give_up(error)
        self._placing.reconnected()
        self.suspicion.end_all()

    def on_tokens(self, _subject: str, data: bytes) -> None:
        """Listener of this gateway's token subject."""
        try:
            batch = decode(TokenBatch, data)
        except ProtocolError as error:
            logger.warning("token frames refused: %s", error)
            return
        for frame in batch.frames:
            session = self._table.find(frame.session)
            if session is None or frame.epoch < session.epoch:
                self._turn_away(batch.worker, frame)
            else:
                self._on_frame(session, batch.worker, frame)

    def on_taken(self, _subject: str, data: bytes) -> None:
        """Listener of the subject on which schedulers say that they have a question."""
        try:
            self._placing.on_taken(decode(Taken, data))
        except ProtocolError as error:
            logger.warning("word of a scheduler refused: %s", error)

    def on_taken_over(self, subject: str, data: bytes) -> None:
        """Listener: a gateway took a session over."""
        self._kept.on_taken_over(subject, data)

    async def on_held(self, held: HeldSessions) -> StillHeld:
        """Handler of the subject on which a worker that was cut off says what it holds."""
        self._repeats.ask(session for session in self._table if (held.role, held.worker) in session.needed_workers())
        return answer(self._table, held)

    def reconnected(self) -> None:
        """The gateway's connection is back: what came meanwhile is lost."""
        self._placing.reconnected()
        self._repeats.ask(self._table)
        self._verifier.wanted()

    async def write_journal(self) -> None:
        """Task body: keep the journal of resumable sessions."""
        await self._writer.run()

    async def watch(self) -> None:
        """Task body: notice what no worker tells."""
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            if time.monotonic() - looked_s > FROZEN_S:
                self._verifier.wanted()
            looked_s = time.monotonic()
            self._placing.look()
            self._repeats.look(self._table)
            self._kept.look()
            self.suspicion.revive()
            self._fail_unnoticed()

    def _fail_unnoticed(self) -> None:
        lost: dict[tuple[Role, str], list[Session]] = defaultdict(list)
        last: dict[tuple[Role, str], LostWorker] = {}
        for session in self._table:
            failure = unnoticed_failure(session, self._fleet)
            if failure is None:
                continue
            session.fail(failure)
            if isinstance(failure, LostWorker):
                lost[failure.role, failure.worker].append(session)
                last[failure.role, failure.worker] = failure
        for worker, failure in last.items():
            self.suspicion.lost(failure, lost[worker])

    @asynccontextmanager
    async def _generate(self, request: GenerationRequest) -> AsyncIterator[RunningGeneration]:
        session = Session(request)
        self._table.add(session)
        deltas = self._deltas(session)
        try:
            yield RunningGeneration(session.id, deltas)
        finally:
            self._table.remove(session)
            await deltas.aclose()

    async def _deltas(self, session: Session) -> AsyncGenerator[Delta, None]:
        self._table.admit(others=len(self._table) - 1)
        writer = DeltaWriter(self._tokenizer, session.request)
        await self._course.begin(session)
        while True:
            tokens, finish = await self._course.next_tokens(session)
            delta = writer.write(tokens, finish)
            if delta.finish is not None:
                self._course.end(session)
                yield with_timings(delta, session.timeline.timings())
                return
            yield delta

    def _turn_away(self, worker: str, frame: TokenFrame) -> None:
        cancel = self._strays.cancel_for(worker, frame)
        if cancel is not None:
            for role in (Role.PREFILL, Role.DECODE):
                self._outbox.post(subjects.cancel(role, worker), cancel)

    def _on_frame(self, session: Session, worker: str, frame: TokenFrame) -> None:
        try:
            session.on_frame(frame)
        except ProtocolError as error:
            logger.warning("token frame refused: %s", error, extra={"session": session.id})
            return
        if frame.error is not None and frame.epoch == session.epoch:
            self.suspicion.failed(session, worker, frame.error.code)
        self.suspicion.progressed(session)
