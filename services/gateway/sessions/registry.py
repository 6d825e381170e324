"""All generations of one gateway: starts them, feeds them frames, ends them on the workers.

`services.gateway.generation.Generator` over the bus. A session whose worker fails is placed again in a new epoch, with
prompt and emitted tokens, and goes on at the next index; the reader notices nothing but the pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from services.gateway.generation import Delta, GenerationRequest
from services.gateway.metrics import observe_end, observe_move
from services.gateway.sessions.placing import Placing
from services.gateway.sessions.session import Session
from services.gateway.sessions.strays import Strays
from services.gateway.sessions.text import DeltaWriter, with_timings
from services.gateway.sessions.watch import unnoticed_failure
from shared.bus.connection import Bus
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import BatonError, Draining, Overloaded, ProtocolError
from shared.protocol import subjects
from shared.protocol.to_gateway import Taken, TokenBatch, TokenFrame
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.25


class SessionLinks(msgspec.Struct, frozen=True, kw_only=True):
    """What sessions need of the gateway around them."""

    bus: Bus
    outbox: Outbox
    fleet: Liveness
    tasks: Tasks


class Sessions:
    """`attempts` is how often a session may be placed in all, `session_limit` how many may run at once."""

    def __init__(
        self,
        links: SessionLinks,
        tokenizer: Tokenizer,
        *,
        gateway: str,
        model: str,
        session_limit: int,
        attempts: int,
    ) -> None:
        self._outbox = links.outbox
        self._fleet = links.fleet
        self._placing = Placing(links.bus, links.outbox, links.fleet, links.tasks, gateway=gateway, model=model)
        self._strays = Strays()
        self._tokenizer = tokenizer
        self._session_limit = session_limit
        self._attempts = attempts
        self._sessions: dict[str, Session] = {}
        self._draining = False
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[RunningGeneration]:
        """See `services.gateway.generation.Generator.generate`."""
        session = Session(request)
        self._sessions[session.id] = session
        deltas = self._deltas(session)
        try:
            yield RunningGeneration(session.id, deltas)
        finally:
            del self._sessions[session.id]
            session.left = True
            if not session.finished:
                self._placing.cancel(session)
            observe_end(session)
            if not self._sessions:
                self._idle.set()
            await deltas.aclose()

    async def drain(self) -> None:
        """Refuse new generations; return when the last one has ended."""
        self._draining = True
        while self._sessions:
            self._idle.clear()
            await self._idle.wait()

    def end_all(self, error: BatonError) -> None:
        """End every generation with `error`, wherever it is."""
        self._draining = True
        for session in self._sessions.values():
            session.give_up(error)
        self._placing.reconnected()

    def on_tokens(self, _subject: str, data: bytes) -> None:
        """Listener of this gateway's token subject."""
        try:
            batch = decode(TokenBatch, data)
        except ProtocolError as error:
            logger.warning("token frames refused: %s", error)
            return
        for frame in batch.frames:
            session = self._sessions.get(frame.session)
            if session is None or frame.epoch < session.epoch:
                self._turn_away(batch.worker, frame)
            else:
                self._on_frame(session, frame)

    def on_taken(self, _subject: str, data: bytes) -> None:
        """Listener of the subject on which schedulers say that they have a question."""
        try:
            self._placing.on_taken(decode(Taken, data))
        except ProtocolError as error:
            logger.warning("word of a scheduler refused: %s", error)

    def reconnected(self) -> None:
        """The gateway's connection is back: what came meanwhile is lost."""
        self._placing.reconnected()

    def _turn_away(self, worker: str, frame: TokenFrame) -> None:
        cancel = self._strays.cancel_for(worker, frame)
        if cancel is not None:
            for role in (Role.PREFILL, Role.DECODE):
                self._outbox.post(subjects.cancel(role, worker), cancel)

    def _on_frame(self, session: Session, frame: TokenFrame) -> None:
        try:
            session.on_frame(frame)
        except ProtocolError as error:
            logger.warning("token frame refused: %s", error, extra={"session": session.id})

    async def watch(self) -> None:
        """Task body: notice what no worker tells."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            self._placing.look()
            for session in list(self._sessions.values()):
                failure = unnoticed_failure(session, self._fleet)
                if failure is not None:
                    session.fail(failure)

    async def _deltas(self, session: Session) -> AsyncGenerator[Delta, None]:
        self._admit()
        writer = DeltaWriter(self._tokenizer, session.request)
        await self._placing.place(session)
        while True:
            try:
                tokens, finish = await session.next_tokens()
            except BatonError as error:
                await self._place_again(session, error)
                continue
            delta = writer.write(tokens, finish)
            if delta.finish is not None:
                if not session.finished:
                    self._placing.cancel(session)
                session.stop()
                yield with_timings(delta, session.timeline.timings())
                return
            yield delta

    def _admit(self) -> None:
        if self._draining:
            raise Draining("the gateway takes no new requests", retry_after_ms=1000)
        if len(self._sessions) > self._session_limit:
            raise Overloaded(f"{self._session_limit} generations run already", retry_after_ms=1000)

    async def _place_again(self, session: Session, error: BatonError) -> None:
        """Move the session to a new epoch. Raises `error` when it is not worth a retry or was tried often enough."""
        # A worker that leaves in good order has not failed: that may happen to a session any number of times.
        session.failures += not isinstance(error, Draining)
        if session.given_up.is_set() or not error.retryable or session.failures >= self._attempts:
            raise error
        logger.warning("session moves on: %s", error, extra={"session": session.id})
        self._placing.cancel(session)
        observe_move()
        session.moves += 1
        session.begin_epoch(session.epoch + 1)
        await self._placing.place(session)


class RunningGeneration:
    """See `services.gateway.generation.Generation`."""

    def __init__(self, session_id: str, deltas: AsyncIterator[Delta]) -> None:
        self.id = session_id
        self._deltas = deltas

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas
