"""Keeps a worker's tenure: notices time, asks gateways what it still holds, gives up a connection that is dead.

`WorkerLinks` owns it. The rules are in `tenure.py`; the gateways' answers in `services.gateway.sessions.roll_call`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Set

import msgspec

from shared.bus.connection import Bus
from shared.bus.data_plane.connection import DataPlane
from shared.bus.liveness import MISSED_BEATS, Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import BatonError
from shared.protocol import subjects
from shared.protocol.to_gateway import HeldSession, HeldSessions, StillHeld, TokenBatch
from shared.protocol.wire import Message
from shared.runtime.holder import Holder, Holding
from shared.runtime.tasks import Tasks
from shared.runtime.tenure import Tenure, TenureState

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 0.5
ASK_PAUSE_S = 0.1
ASK_PATIENCE_S = 3.0
LOOK_INTERVAL_S = 0.1
DIAL_PATIENCE_S = 5.0


class Connections(msgspec.Struct, frozen=True):
    """What a worker hears and speaks with."""

    control: Bus
    kv: DataPlane
    control_out: Outbox
    gateways: Liveness


class TenureKeeper:
    """`run` is the body of its task. `beat_interval_s` is the worker's own."""

    def __init__(
        self,
        tenure: Tenure,
        holder: Holder,
        connections: Connections,
        tasks: Tasks,
        *,
        role: Role,
        worker: str,
        beat_interval_s: float,
    ) -> None:
        self._tenure = tenure
        self._holder = holder
        self._to = connections
        self._tasks = tasks
        self._role = role
        self._worker = worker
        self._deaf_limit_s = MISSED_BEATS * beat_interval_s
        self._dialled_s = 0.0

    async def run(self) -> None:
        """Task body."""
        while True:
            if self._tenure.state is TenureState.ASKING:
                await self._ask_all()
            else:
                self._look_at_connections()
                await self._tenure.changed(within_s=LOOK_INTERVAL_S)

    def forfeit(self) -> None:
        """Drop all sessions."""
        self._drop(self._holdings())

    async def _ask_all(self) -> None:
        """Drop what is ours no more, then go on with the rest."""
        gateways = {holding.gateway for holding in self._holdings()}
        await self._tell_others(gateways)
        asking = [self._tasks.start(self._ask(gateway), name=f"ask {gateway}") for gateway in gateways]
        if asking:
            await asyncio.wait(asking)
        self._tenure.asked()

    def _holdings(self) -> set[Holding]:
        """Sessions that run, and those that have ended whose last words wait."""
        holdings = set(self._holder.held())
        for subject, message in self._to.control_out:
            if isinstance(message, TokenBatch):
                gateway = subject.rsplit(".", 1)[1]
                holdings |= {Holding(gateway, frame.session, frame.epoch) for frame in message.frames}
        return holdings

    async def _tell_others(self, asked: Collection[str]) -> None:
        """Gateways with nothing here hear of that: the end of a session may be what was lost."""
        for beat in list(self._to.gateways.alive(Role.GATEWAY)):
            if beat.worker not in asked:
                try:
                    await self._to.control.send(subjects.held(beat.worker), self._word([]))
                except BatonError as error:
                    logger.debug("could not tell %s: %s", beat.worker, error)

    async def _ask(self, gateway: str) -> None:
        """Drop what `gateway` does not count on any more; all of it when it does not answer for long.

        What is placed here while it does not answer is named the next time: it would else be taken for lost.
        """
        holdings: list[Holding] = []
        kept: frozenset[tuple[str, int]] = frozenset()
        until_s = time.monotonic() + ASK_PATIENCE_S
        while time.monotonic() < until_s:
            if self._tenure.state is not TenureState.ASKING:
                return
            holdings = [holding for holding in self._holdings() if holding.gateway == gateway]
            try:
                answer = await self._to.control.request(
                    subjects.held(gateway), self._word(holdings), StillHeld, ANSWER_TIMEOUT_S
                )
            except BatonError as error:
                logger.debug("%s does not say what it counts on: %s", gateway, error)
                await asyncio.sleep(ASK_PAUSE_S)
                continue
            kept = frozenset((session.session, session.epoch) for session in answer.sessions)
            break
        self._drop({holding for holding in holdings if (holding.session, holding.epoch) not in kept})

    def _word(self, holdings: list[Holding]) -> HeldSessions:
        sessions = tuple(HeldSession(session=holding.session, epoch=holding.epoch) for holding in holdings)
        return HeldSessions(worker=self._worker, role=self._role, sessions=sessions)

    def _drop(self, holdings: Set[Holding]) -> None:
        if not holdings:
            return
        logger.warning("%d sessions are dropped: others have them now", len(holdings))
        self._holder.drop(holdings)
        gone = {(holding.session, holding.epoch) for holding in holdings}
        self._to.control_out.sift(lambda message: _without(message, gone))

    def _look_at_connections(self) -> None:
        """One on which nothing comes back is dead, whatever TCP thinks: dial anew, where there is a way."""
        now_s = time.monotonic()
        if self._tenure.lapsed_for_s() < self._deaf_limit_s or now_s - self._dialled_s < DIAL_PATIENCE_S:
            return
        if self._to.control.connected:
            self._dialled_s = now_s
            self._to.control.redial("our own beats do not come back")
            self._to.kv.redial("beats do not come back")


def _without(message: Message, gone: set[tuple[str, int]]) -> Message | None:
    """`message` less the tokens of sessions that are gone; None when nothing is left."""
    if not isinstance(message, TokenBatch):
        return message
    frames = tuple(frame for frame in message.frames if (frame.session, frame.epoch) not in gone)
    return msgspec.structs.replace(message, frames=frames) if frames else None
