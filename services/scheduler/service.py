"""The scheduler service: a shell around fleet, placer and waiting rooms. Several may run; each hears all beats."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from services.scheduler.fleet import Fleet
from services.scheduler.pair_log import PairLog
from services.scheduler.placer import Placement, Placer
from services.scheduler.settings import SchedulerSettings
from services.scheduler.waiting_rooms import WaitingRooms
from services.scheduler.workers import BusWorkers
from shared.bus.connection import Bus, Listening
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import Cancelled, ProtocolError
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_decode import Cancel
from shared.protocol.to_gateway import Taken
from shared.protocol.to_scheduler import CancelPlacement, Placed, PlaceRequest
from shared.protocol.wire import Message, decode
from shared.runtime import stages
from shared.runtime.beats import Heartbeat, new_boot
from shared.runtime.fences import Fences
from shared.runtime.hearing import redial_when_deaf
from shared.runtime.stages import Stage
from shared.runtime.tasks import Tasks

logger = logging.getLogger(__name__)


class SchedulerService:
    """One scheduler. `settings.id` must be set."""

    def __init__(self, settings: SchedulerSettings, tasks: Tasks) -> None:
        self._settings = settings
        self._id = subjects.check_name(settings.id)
        self._tasks = tasks
        self._boot = new_boot()
        self._state = WorkerState.STARTING
        self._fleet = Fleet(own_interval_s=settings.beat_interval_s)
        self._fences = Fences()
        self._pair_log = PairLog()
        self._requests: Listening | None = None
        self._bus: Bus | None = None
        self._wanted_elsewhere: frozenset[str] = frozenset()
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Connect, hear who is there, then take requests."""
        self._bus = bus = await Bus.connect(
            self._settings.nats,
            name=f"scheduler {self._id}",
            spawn=self._tasks.start,
            on_disconnect=self._fleet.suspend,
            on_reconnect=self._fleet.resume,
        )
        self._outbox = Outbox(bus)
        self._tasks.start(self._outbox.run(), name="outbox")
        self._workers = BusWorkers(bus, self._outbox, self._settings.claim_timeout_s)
        self._heartbeat = Heartbeat(bus, self._beat, self._settings.beat_interval_s)
        self._rooms = WaitingRooms(
            Placer(self._fleet, self._workers).place,
            self._settings.queue_limit,
            lambda: self._wanted_elsewhere,
            self._heartbeat.changed,
        )
        await bus.listen(subjects.BEATS, self._hear)
        await bus.listen(subjects.CANCEL_PLACEMENT, self._on_cancel)
        # Who takes a question is looked for among the beats: they must know this start of it first.
        await self._heartbeat.send()
        self._requests = await bus.serve(subjects.PLACE, PlaceRequest, self._place, queue=subjects.SCHEDULER_QUEUE)
        await bus.flush()
        self._state = WorkerState.READY
        self._tasks.start(self._heartbeat.run(), name="heartbeat")
        hearing = redial_when_deaf(bus, self._fleet.liveness, self._settings.beat_interval_s)
        self._tasks.start(hearing, name="hearing")

    async def drain(self) -> None:
        """Leave new requests to other schedulers; return when nobody waits here."""
        self._state = WorkerState.DRAINING
        if self._requests is not None:
            await self._requests.drain()
            await self._nobody_inside()

    def stuck(self) -> str:
        """Never, as long as its event loop runs."""
        return ""

    async def hand_over(self) -> None:
        """Send those who still wait to another scheduler."""
        self._rooms.close()
        await self._nobody_inside()

    async def stop(self) -> None:
        """Send those who still wait to another scheduler, and disconnect. Idempotent."""
        self._state = WorkerState.STOPPED
        if self._requests is not None:
            await self._requests.close()
            self._rooms.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.claim_timeout_s):
                    await self._nobody_inside()
        if self._bus is not None:
            if self._bus.connected:
                await self._bus.send(subjects.beat(Role.SCHEDULER, self._id), self._beat())
                await self._outbox.drain()
            await self._bus.close()
        await self._tasks.close()

    async def _nobody_inside(self) -> None:
        while self._rooms.inside:
            self._idle.clear()
            await self._idle.wait()

    async def _place(self, request: PlaceRequest) -> Message:
        started_s = time.monotonic()
        self._outbox.post(subjects.taken(request.gateway), self._taken(request))
        self._fences.check(request.session, request.epoch)
        if request.epoch:
            # The older epoch is over: if it is being placed right now, that must be undone.
            self._fences.raise_fence(request.session, request.epoch - 1)
        try:
            placement = await self._rooms.place(request)
        finally:
            if not self._rooms.inside:
                self._idle.set()
        self._undo_if_cancelled(request, placement)
        queue_ms = (time.monotonic() - started_s) * 1000
        stages.observe(Stage.QUEUE, queue_ms)
        return Placed(
            session=request.session,
            epoch=request.epoch,
            prefill=placement.prefill,
            decode=placement.decode,
            queue_ms=queue_ms,
            arithmetic=placement.arithmetic,
            fingerprint=placement.fingerprint,
            prefill_boot=placement.prefill_boot,
            decode_boot=placement.decode_boot,
        )

    def _taken(self, request: PlaceRequest) -> Taken:
        return Taken(
            session=request.session,
            epoch=request.epoch,
            scheduler=self._id,
            boot=self._boot,
            connection=self._reconnects,
        )

    @property
    def _reconnects(self) -> int:
        return 0 if self._bus is None else self._bus.reconnects

    def _undo_if_cancelled(self, request: PlaceRequest, placement: Placement) -> None:
        """A cancel that came while the workers were being asked: they hold a session nobody wants."""
        try:
            self._fences.check(request.session, request.epoch)
        except Cancelled:
            cancel = Cancel(session=request.session, epoch=request.epoch)
            self._workers.cancel(Role.PREFILL, placement.prefill, cancel)
            self._workers.cancel(Role.DECODE, placement.decode, cancel)
            raise

    def _hear(self, _subject: str, data: bytes) -> None:
        try:
            beat = decode(Beat, data)
        except ProtocolError as error:
            logger.warning("beat refused: %s", error)
            return
        self._fleet.liveness.contact()
        if beat.role in (Role.PREFILL, Role.DECODE):
            self._fleet.hear(beat)
            self._pair_log.hear(beat, self._fleet.workers())
            self._rooms.fleet_changed()
        elif beat.role is Role.SCHEDULER and beat.worker != self._id:
            self._fleet.liveness.hear(beat)
        self._look_at_others()

    def _look_at_others(self) -> None:
        """What begun streams wait for at other schedulers, as far as these live."""
        beats = self._fleet.liveness.alive(Role.SCHEDULER)
        wanted = frozenset(name for beat in beats for name in beat.begun_waiting)
        if wanted != self._wanted_elsewhere:
            self._wanted_elsewhere = wanted
            self._rooms.fleet_changed()

    def _on_cancel(self, _subject: str, data: bytes) -> None:
        try:
            cancel = decode(CancelPlacement, data)
        except ProtocolError as error:
            logger.warning("cancel refused: %s", error)
            return
        self._fences.raise_fence(cancel.session, cancel.epoch)
        self._rooms.cancel(cancel.session, cancel.epoch)

    def _beat(self) -> Beat:
        return Beat(
            worker=self._id,
            role=Role.SCHEDULER,
            boot=self._boot,
            state=self._state,
            interval_ms=round(self._settings.beat_interval_s * 1000),
            connection=self._reconnects,
            sessions=self._rooms.inside,
            begun_waiting=tuple(sorted(self._rooms.begun)),
            session_limit=self._settings.queue_limit,
        )
