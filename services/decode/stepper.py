"""Continuous batching: sessions join and leave between steps; every step moves all that run by one token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.decode.session import DecodeSession, SessionState
from shared.core import FinishReason, SampledToken
from shared.engine.contract import Engine
from shared.errors import BatonError, EngineFailed
from shared.protocol.to_gateway import TokenFrame
from shared.runtime.apart import Streak, call_apart
from shared.runtime.engine_thread import EngineThread

Frames = list[tuple[str, TokenFrame]]


class Stepper:
    """Steps the sessions that have joined, once `may_step` returns.

    `send` gets each step's frames, `ended` each session that is over.

    `announce` is awaited before a session on trial makes its first step, which it makes alone.

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
        announce: Callable[[DecodeSession], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._may_step = may_step
        self._send = send
        self._ended = ended
        self._announce = announce
        self._streak = Streak()
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
        """Task body: step while anyone runs, wait otherwise. Raises EngineFailed when the engine fails on everyone."""
        while True:
            while not self._joined:
                self._wake.clear()
                await self._wake.wait()
            await self._may_step()
            on_trial = next((session for session in self._joined if session.on_trial), None)
            if self._joined:
                await self._step(list(self._joined) if on_trial is None else [on_trial])

    async def _step(self, batch: list[DecodeSession]) -> None:
        self._stepping = frozenset(batch)
        if batch[0].on_trial:
            await self._announce(batch[0])
        outcomes = await call_apart(self._call, batch)
        self.steps += 1
        self._absorb(batch, outcomes)
        for session, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, EngineFailed):
                self._streak.failed(session.claim.session)
            else:
                self._streak.served()

    async def _call(self, batch: Sequence[DecodeSession]) -> list[SampledToken]:
        return await self._thread.call(self._engine.step, [session.key for session in batch])

    def _absorb(self, batch: list[DecodeSession], outcomes: list[SampledToken | EngineFailed]) -> None:
        frames: Frames = []
        over = [session for session in batch if session.state is SessionState.ENDED]
        for session, outcome in zip(batch, outcomes, strict=True):
            if session.state is SessionState.ENDED:
                continue
            if isinstance(outcome, EngineFailed):
                frame = error_frame(session, outcome)
            else:
                frame = session.frame(outcome, self._engine.spec)
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
