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
from services.gateway.sessions.session import Session
from services.gateway.sessions.text import DeltaWriter, with_timings
from services.gateway.sessions.watch import unnoticed_failure
from shared.bus.connection import Bus
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import BatonError, Cancelled, Draining, Overloaded, ProtocolError
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel
from shared.protocol.to_gateway import TokenBatch, TokenFrame
from shared.protocol.to_scheduler import CancelPlacement, Placed
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.25
PLACE_MARGIN_S = 1.0


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
        self._bus = links.bus
        self._outbox = links.outbox
        self._fleet = links.fleet
        self._tasks = links.tasks
        self._tokenizer = tokenizer
        self._gateway = gateway
        self._model = model
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
            if not session.finished:
                self._cancel_workers(session)
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

    def on_tokens(self, _subject: str, data: bytes) -> None:
        """Listener of this gateway's token subject."""
        try:
            batch = decode(TokenBatch, data)
        except ProtocolError as error:
            logger.warning("token frames refused: %s", error)
            return
        for frame in batch.frames:
            session = self._sessions.get(frame.session)
            if session is not None:
                self._on_frame(session, frame)

    def _on_frame(self, session: Session, frame: TokenFrame) -> None:
        try:
            session.on_frame(frame)
        except ProtocolError as error:
            logger.warning("token frame refused: %s", error, extra={"session": session.id})

    async def watch(self) -> None:
        """Task body: notice what no worker tells."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for session in list(self._sessions.values()):
                failure = unnoticed_failure(session, self._fleet)
                if failure is not None:
                    session.fail(failure)

    async def _deltas(self, session: Session) -> AsyncGenerator[Delta, None]:
        self._admit()
        writer = DeltaWriter(self._tokenizer, session.request)
        await self._place(session)
        while True:
            try:
                tokens, finish = await session.next_tokens()
            except BatonError as error:
                await self._place_again(session, error)
                continue
            delta = writer.write(tokens, finish)
            if delta.finish is not None:
                if not session.finished:
                    self._cancel_workers(session)
                session.stop()
                yield with_timings(delta, session.timeline.timings())
                return
            yield delta

    def _admit(self) -> None:
        if self._draining:
            raise Draining("the gateway takes no new requests", retry_after_ms=1000)
        if len(self._sessions) > self._session_limit:
            raise Overloaded(f"{self._session_limit} generations run already", retry_after_ms=1000)

    async def _place(self, session: Session) -> None:
        """Ask a scheduler. The asking outlives a reader that leaves: what it finds must be cancelled too."""
        asking = self._tasks.start(self._ask(session, session.epoch), name=f"place {session.id}")
        error = await asyncio.shield(asking)
        if error is not None:
            raise error

    async def _ask(self, session: Session, epoch: int) -> BatonError | None:
        request = session.place_request(self._gateway, self._model)
        try:
            placed = await self._bus.request(subjects.PLACE, request, Placed, session.left_s() + PLACE_MARGIN_S)
        except BatonError as error:
            return error
        if session.id not in self._sessions or session.epoch != epoch:
            self._cancel_placed(session.id, epoch, placed)
            return Cancelled("the reader left while the session was placed")
        # At once, not when the reader runs again: it may be leaving already, and cancels what is placed.
        session.place(placed)
        return None

    async def _place_again(self, session: Session, error: BatonError) -> None:
        """Move the session to a new epoch. Raises `error` when it is not worth a retry or was tried often enough."""
        if not error.retryable or session.epoch + 1 >= self._attempts:
            raise error
        logger.warning("session moves on: %s", error, extra={"session": session.id})
        self._cancel_workers(session)
        observe_move()
        session.begin_epoch(session.epoch + 1)
        await self._place(session)

    def _cancel_workers(self, session: Session) -> None:
        if session.placed is not None:
            self._cancel_placed(session.id, session.epoch, session.placed)
        else:
            self._outbox.post(subjects.CANCEL_PLACEMENT, CancelPlacement(session=session.id, epoch=session.epoch))

    def _cancel_placed(self, session: str, epoch: int, placed: Placed) -> None:
        cancel = Cancel(session=session, epoch=epoch)
        self._outbox.post(subjects.cancel(Role.PREFILL, placed.prefill), cancel)
        self._outbox.post(subjects.cancel(Role.DECODE, placed.decode), cancel)


class RunningGeneration:
    """See `services.gateway.generation.Generation`."""

    def __init__(self, session_id: str, deltas: AsyncIterator[Delta]) -> None:
        self.id = session_id
        self._deltas = deltas

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas
