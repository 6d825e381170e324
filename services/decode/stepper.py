"""Continuous batching: sessions join and leave between steps; every step moves all that run by one token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.decode.session import DecodeSession, SessionState
from shared.core import FinishReason, SampledToken
from shared.engine.contract import Engine
from shared.errors import BatonError, WorkerFailed
from shared.protocol.to_gateway import TokenFrame
from shared.runtime.engine_thread import EngineThread

logger = logging.getLogger(__name__)

Frames = list[tuple[str, TokenFrame]]


class Stepper:
    """Steps the sessions that have joined, once `may_step` returns.

    `send` gets each step's frames, `ended` each session that is over.

    A session that leaves while a step runs is handed to `ended` when that step is done, never before: the engine may
    still be writing its memory.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        *,
        may_step: Callable[[], Awaitable[None]],
        send: Callable[[Frames], None],
        ended: Callable[[DecodeSession], None],
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._may_step = may_step
        self._send = send
        self._ended = ended
        self._joined: list[DecodeSession] = []
        self._stepping: frozenset[DecodeSession] = frozenset()
        self._wake = asyncio.Event()
        self.steps = 0

    def __len__(self) -> int:
        return len(self._joined)

    def join(self, session: DecodeSession) -> None:
        """From the next step on."""
        self._joined.append(session)
        self._wake.set()

    def leave(self, session: DecodeSession) -> None:
        """End `session`, running or not yet; `ended` follows now, or after the step it is in."""
        if session.state is SessionState.ENDED:
            return
        session.advance(SessionState.ENDED)
        if session in self._joined:
            self._joined.remove(session)
        if session not in self._stepping:
            self._ended(session)

    async def run(self) -> None:
        """Task body: step while anyone runs, wait otherwise."""
        while True:
            while not self._joined:
                self._wake.clear()
                await self._wake.wait()
            await self._may_step()
            if self._joined:
                await self._step(list(self._joined))

    async def _step(self, batch: list[DecodeSession]) -> None:
        self._stepping = frozenset(batch)
        try:
            sampled = await self._thread.call(self._engine.step, [session.key for session in batch])
        except Exception as error:  # noqa: BLE001 - the boundary between the engine and its sessions
            self._fail(batch, error)
        else:
            self.steps += 1
            self._absorb(batch, sampled)

    def _absorb(self, batch: list[DecodeSession], sampled: list[SampledToken]) -> None:
        frames: Frames = []
        over = [session for session in batch if session.state is SessionState.ENDED]
        for session, token in zip(batch, sampled, strict=True):
            if session.state is SessionState.ENDED:
                continue
            frame = session.frame(token, self._engine.spec)
            frames.append((session.claim.gateway, frame))
            if frame.finish is not None:
                self._retire(session)
                over.append(session)
        self._stepping = frozenset()
        self._send(frames)
        for session in over:
            self._ended(session)

    def _retire(self, session: DecodeSession) -> None:
        session.advance(SessionState.ENDED)
        self._joined.remove(session)

    def _fail(self, batch: list[DecodeSession], error: Exception) -> None:
        logger.error("decode step failed, %d sessions with it", len(batch), exc_info=error)
        failure = WorkerFailed(f"decode step failed: {error}")
        self._stepping = frozenset()
        for session in batch:
            if session.state is not SessionState.ENDED:
                self._retire(session)
                self._send([(session.claim.gateway, error_frame(session, failure))])
            self._ended(session)


def error_frame(session: DecodeSession, error: BatonError) -> TokenFrame:
    """The frame that ends `session` with `error`."""
    return TokenFrame(
        session=session.claim.session,
        epoch=session.claim.epoch,
        index=0,
        ids=b"",
        finish=FinishReason.ERROR,
        error=error.info,
    )
