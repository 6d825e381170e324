"""Which sessions may be why a worker ended, and what follows: a trial alone on the next one, or quarantine.

A session is suspected when the engine had it in hand, and had not yet brought it through its first calls: prefill from
its notice that it begins until the first token, decode from there until its own first token. A suspect is placed again
one at a time, and marked: the worker computes it alone and says so before it begins. A worker that ends then has ended
of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.gateway.metrics import observe_quarantine
from services.gateway.sessions.quarantine import Quarantine, Strike
from services.gateway.sessions.session import Session
from services.gateway.sessions.watch import LostWorker
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import DeadlineExceeded, EngineFailed, HandoffFailed, ProtocolError
from shared.protocol import subjects
from shared.protocol.to_gateway import PromptQuarantined
from shared.protocol.wire import decode

logger = logging.getLogger(__name__)

UNANNOUNCED = 8


class Suspicion:
    """Of the sessions of `gateway`. Prompts stay in quarantine for `keep_s`; the other gateways of `model` are told."""

    def __init__(self, outbox: Outbox, fleet: Liveness, *, gateway: str, model: str, keep_s: float) -> None:
        self._outbox = outbox
        self._fleet = fleet
        self._gateway = gateway
        self._model = model
        self._keep_s = keep_s
        self._quarantine = Quarantine(keep_s)
        self._on_trial: Session | None = None
        self._turn = asyncio.Event()

    async def admit(self, session: Session) -> None:
        """Return when `session` may be placed. Raises Quarantined, and DeadlineExceeded for one that waits its turn."""
        session.trial = False
        self.check(session)
        while self._suspects(session) and self._on_trial is not None:
            self._turn.clear()
            await self._next_turn(session)
            session.raise_if_given_up()
            self.check(session)
        if self._suspects(session):
            session.trial = True
            self._on_trial = session

    def check(self, session: Session) -> None:
        """Raises Quarantined."""
        if self._quarantine:
            self._quarantine.check(session.prompt)

    def progressed(self, session: Session) -> None:
        """Tokens have come. Once one is from decode, prompt and workers get along."""
        if self._quarantine and session.epoch_tokens > 1 and self._quarantine.suspects(session.prompt):
            self._quarantine.acquit(session.prompt)
            self._wake()
        if session.trial and (session.epoch_tokens > 1 or session.finished):
            self.over(session)

    def over(self, session: Session) -> None:
        """Its trial, if it was on one, has ended."""
        session.trial = False
        if self._on_trial is session:
            self._on_trial = None
            self._wake()

    def end_all(self) -> None:
        """Sessions were given up: whoever waits looks again."""
        self._wake()

    def lost(self, worker: LostWorker, sessions: Sequence[Session]) -> None:
        """`worker` is gone, with `sessions`."""
        inside = _inside(worker.role, sessions)
        alone = len({session.prompt for session in inside}) == 1
        strike = Strike(worker.role, worker.worker, worker.boot, silent=worker.silent)
        self._quarantine.death(strike)
        for session in inside:
            self._strike(session, strike, proven=alone and session.trial and worker.role in session.began)

    def failed(self, session: Session, worker: str, code: str) -> None:
        """`worker` has ended the present epoch of `session` with an error."""
        if code == EngineFailed.code:
            self._engine_failed(session, worker)
        elif code == HandoffFailed.code:
            self._prefill_stalled(session, worker)

    def _prefill_stalled(self, session: Session, worker: str) -> None:
        """Decode has given up on a prefill that had begun and sends nothing: it hangs, and will be ended for that."""
        placed = session.placed
        if placed is None or worker != placed.decode or session.epoch_tokens or Role.PREFILL not in session.began:
            return
        prefill = (Role.PREFILL, placed.prefill)
        boot = session.heard.get(prefill, "")
        self.lost(LostWorker("prefill sends nothing", *prefill, boot, silent=False), [session])

    def _engine_failed(self, session: Session, worker: str) -> None:
        """It raised for this session and served the others."""
        # Where the session is placed may not be known yet: the worker was quicker than the scheduler's answer.
        role = Role.PREFILL if self._fleet.boot(Role.DECODE, worker) is None else Role.DECODE
        boot = self._fleet.boot(role, worker) or ""
        self._strike(session, Strike(role, worker, boot), proven=True)

    def revive(self) -> None:
        """To be called at an interval: who was taken for dead may be heard again."""
        if self._quarantine:
            self._quarantine.revive(self._fleet.boot)

    def on_notice(self, _subject: str, data: bytes) -> None:
        """Listener of the subject on which gateways tell each other."""
        try:
            notice = decode(PromptQuarantined, data)
        except ProtocolError as error:
            logger.warning("quarantine notice refused: %s", error)
            return
        if notice.gateway != self._gateway and notice.model == self._model:
            self._quarantine.convict(notice.prompt, notice.for_ms / 1000)

    def _strike(self, session: Session, strike: Strike, *, proven: bool) -> None:
        if self._quarantine.strike(session.prompt, strike, proven=proven):
            logger.error("prompt %s is quarantined", session.prompt, extra={"session": session.id})
            observe_quarantine()
            for_ms = round(self._keep_s * 1000)
            notice = PromptQuarantined(gateway=self._gateway, model=self._model, prompt=session.prompt, for_ms=for_ms)
            self._outbox.post(subjects.QUARANTINE, notice)
        else:
            logger.warning("%s may have failed of this prompt", strike.worker, extra={"session": session.id})

    def _suspects(self, session: Session) -> bool:
        return bool(self._quarantine) and self._quarantine.suspects(session.prompt)

    async def _next_turn(self, session: Session) -> None:
        try:
            async with asyncio.timeout(max(0.0, session.left_s())):
                await self._turn.wait()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while another suspect was on trial") from None

    def _wake(self) -> None:
        self._turn.set()


def _inside(role: Role, sessions: Sequence[Session]) -> list[Session]:
    """Those the engine had in hand and had not brought through yet."""
    running = [session for session in sessions if not session.finished]
    if role is Role.DECODE:
        new = [session for session in running if session.epoch_tokens == 1]
        # One on trial steps alone, and says so: those that wait for their own first step meanwhile have no part in it.
        return [session for session in new if Role.DECODE in session.began] or new
    untouched = [session for session in running if session.epoch_tokens == 0]
    begun = [session for session in untouched if Role.PREFILL in session.began]
    # A worker may end before its notice is out. Prompts are taken up roughly as they came.
    return begun or sorted(untouched, key=lambda session: session.placed_for_s(), reverse=True)[:UNANNOUNCED]
