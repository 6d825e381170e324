"""What a worker that was cut off tells gateways, and what it drops."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from shared.bus.lease import Lease
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import Unavailable
from shared.protocol.to_gateway import HeldSession, HeldSessions, StillHeld
from shared.runtime.holder import Holding
from shared.runtime.tasks import Tasks
from shared.runtime.tenure import Tenure, TenureState
from shared.runtime.tenure_keeper import Connections, TenureKeeper

OLD, NEW = Holding("g0", "old", 0), Holding("g0", "new", 0)


class Worker:
    def __init__(self) -> None:
        self.holds = [OLD]
        self.dropped: list[Holding] = []

    def held(self) -> list[Holding]:
        return self.holds

    def drop(self, holdings: Collection[Holding]) -> None:
        self.dropped += holdings


class Gateway:
    """Is not there at the first question; meanwhile `worker` is given another session. It counts on that one only."""

    connected = True

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.heard: list[HeldSessions] = []

    async def request(self, _subject: str, word: HeldSessions, *_: Any) -> StillHeld:
        self.heard.append(word)
        if len(self.heard) == 1:
            self._worker.holds = [OLD, NEW]
            raise Unavailable("not back yet")
        return StillHeld(sessions=(HeldSession(session="new", epoch=0),))

    async def publish(self, subject: str, data: bytes) -> None:
        """Nothing is said in this test."""


async def test_a_session_given_while_a_gateway_is_silent_is_named_when_it_answers():
    worker = Worker()
    gateway: Any = Gateway(worker)
    tenure = Tenure(Lease(interval_s=60.0), lambda: None)
    connections = Connections(gateway, gateway, Outbox(gateway), Liveness())
    async with Tasks("test") as tasks, asyncio.timeout(10):
        keeper = TenureKeeper(tenure, worker, connections, tasks, role=Role.DECODE, worker="d0", beat_interval_s=60.0)
        tenure.disconnected()
        tenure.reconnected()
        tasks.start(keeper.run(), name="tenure")
        while tenure.state is not TenureState.HELD:
            await tenure.changed(within_s=5.0)
    assert [len(word.sessions) for word in gateway.heard] == [1, 2]
    assert worker.dropped == [OLD]
