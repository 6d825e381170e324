"""A gateway's sessions beside those of the fleet, on a connection of their own; it may die, stop, or stand still."""

from __future__ import annotations

from collections.abc import Callable

from nats.aio.msg import Msg

from services.gateway.fleet import GatewayFleet
from services.gateway.sessions.registry import KeepSettings, SessionLinks, Sessions
from shared.bus.connection import Bus
from shared.bus.outbox import Outbox
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_gateway import HeldSessions
from shared.runtime.beats import Heartbeat
from shared.runtime.tasks import Tasks

from .fleet import BEAT_S, Fleet, eventually


class Gateway:
    """Of `fleet`. `start` it; end it with `die`, or `stop`."""

    def __init__(self, fleet: Fleet, name: str, keep: KeepSettings) -> None:
        self._fleet = fleet
        self._name = name
        self._keep = keep
        self._view = GatewayFleet(fleet.model, BEAT_S)
        self.tasks = Tasks(name)

    async def start(self) -> None:
        fleet, name, tasks = self._fleet, self._name, self.tasks
        self.bus = bus = await Bus.connect(fleet.nats, name=name, spawn=tasks.start, on_reconnect=self._reconnected)
        outbox = Outbox(bus)
        links = SessionLinks(bus=bus, outbox=outbox, fleet=self._view.liveness, tasks=tasks)
        self.sessions = Sessions(
            links,
            fleet.tokenizer,
            gateway=name,
            model=fleet.model,
            session_limit=64,
            attempts=3,
            quarantine_s=60.0,
            keep=self._keep,
        )
        await bus.listen(subjects.BEATS, self._view.hear)
        await bus.listen(subjects.tokens(name), self.sessions.on_tokens)
        await bus.listen(subjects.taken(name), self.sessions.on_taken)
        await bus.serve(subjects.held(name), HeldSessions, self.sessions.on_held)
        await bus.listen(subjects.TAKEN_OVER, self.sessions.on_taken_over)
        await bus.flush()
        tasks.start(outbox.run(), name="outbox")
        tasks.start(self.sessions.watch(), name="watch")
        tasks.start(self.sessions.write_journal(), name="journal")
        tasks.start(Heartbeat(bus, self._beat, BEAT_S).run(), name="heartbeat")
        await eventually(lambda: not self._view.status().reasons)

    async def die(self) -> None:
        """As a process does: in the middle of everything, without a word."""
        await self.bus._client._close(0, do_cbs=False)
        await self.tasks.close()

    async def stop(self) -> None:
        await self.sessions.close()
        await self.bus.flush()
        await self.tasks.close()
        await self.bus.close()

    def _reconnected(self) -> None:
        self._view.liveness.resume()
        self.sessions.reconnected()

    def _beat(self) -> Beat:
        return Beat(
            worker=self._name,
            role=Role.GATEWAY,
            boot=self._name,
            state=WorkerState.READY,
            interval_ms=round(BEAT_S * 1000),
        )


async def overhear(url: str, tasks: Tasks, subject: str, heard: Callable[[Msg], None]) -> Bus:
    """A bystander who hears all messages on `subject`."""
    bus = await Bus.connect(BusSettings(url=url), name="bystander", spawn=tasks.start)
    await bus.listen_raw(subject, heard)
    await bus.flush()
    return bus
