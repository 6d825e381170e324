"""What a prefill and a decode worker share of the outside: two connections, outboxes, heartbeat, who is alive.

Bulk has its own connection, so that KV can neither delay nor cut control messages and tokens. What waits in
`control_out` is said only while the worker's sessions are its own (`tenure`).
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack

import msgspec

from shared.bus.connection import Bus
from shared.bus.data_plane.connection import DataPlane
from shared.bus.lease import Lease
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.errors import ProtocolError, Unavailable
from shared.protocol import subjects
from shared.protocol.to_all import Beat
from shared.protocol.to_gateway import TokenBatch, TokenFrame
from shared.protocol.to_worker import Repeat
from shared.protocol.wire import decode
from shared.runtime.beats import Heartbeat
from shared.runtime.holder import Holder
from shared.runtime.said import Said
from shared.runtime.tasks import Tasks
from shared.runtime.tenure import Tenure, TenureState
from shared.runtime.tenure_keeper import Connections, TenureKeeper

logger = logging.getLogger(__name__)

REPEATED_FRAMES = 512


class WorkerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a worker is on the bus, and how often it says so."""

    role: Role
    worker: str
    beat_interval_s: float


class WorkerLinks:
    """The connections of one worker. Build with `open`, end with `close`; tasks belong to the `tasks` passed in."""

    control: Bus
    kv: DataPlane
    control_out: Outbox
    kv_out: Outbox

    def __init__(self, identity: WorkerIdentity, tasks: Tasks) -> None:
        self.identity = identity
        self.gateways = Liveness(own_interval_s=identity.beat_interval_s)
        self.lease = Lease(identity.beat_interval_s)
        self.tenure = Tenure(self.lease, self._forfeit)
        self._tasks = tasks
        self._heartbeat: Heartbeat | None = None
        self._keeper: TenureKeeper | None = None
        self._said = Said()
        self._taken: list[str] = []

    @property
    def boot(self) -> str:
        """Which start of the worker speaks; whoever is given a session is told."""
        return self.tenure.boot

    @classmethod
    async def open(cls, identity: WorkerIdentity, settings: BusSettings, tasks: Tasks) -> WorkerLinks:
        """Connect both and start the outboxes. Leaves no connection behind when it does not succeed."""
        name = f"{identity.role.value} {identity.worker}"
        links = cls(identity, tasks)
        async with AsyncExitStack() as opened:
            links.control = await Bus.connect(
                settings,
                name=name,
                spawn=tasks.start,
                on_disconnect=links._disconnected,
                on_reconnect=links._reconnected,
            )
            opened.push_async_callback(links.control.close)
            links.kv = await DataPlane.connect(settings, name=f"{name} kv", spawn=tasks.start)
            opened.push_async_callback(links.kv.close)
            links.control_out = Outbox(links.control, links._may_speak)
            links.kv_out = Outbox(links.kv)
            await links.control.listen(subjects.BEATS, links._hear)
            await links.control.listen(subjects.repeat(identity.role, identity.worker), links._on_repeat)
            opened.pop_all()
        tasks.start(links.control_out.run(), name="control outbox")
        tasks.start(links.kv_out.run(), name="kv outbox")
        return links

    def start_heartbeat(self, make: Callable[[], Beat], holder: Holder) -> None:
        """`holder` may hold sessions from now on, for as long as its beats are heard."""
        identity = self.identity
        self._heartbeat = Heartbeat(self.control, make, identity.beat_interval_s)
        self._keeper = TenureKeeper(
            self.tenure,
            holder,
            Connections(self.control, self.kv, self.control_out, self.gateways),
            self._tasks,
            role=identity.role,
            worker=identity.worker,
            beat_interval_s=identity.beat_interval_s,
        )
        self._tasks.start(self._heartbeat.run(), name="heartbeat")
        self._tasks.start(self._keeper.run(), name="tenure")

    def took(self, session: str) -> None:
        """This worker has a session more; the fleet is told soon."""
        self._taken.append(session)
        self.changed()

    def taken(self) -> tuple[str, ...]:
        """All sessions that it `took` since this was asked last."""
        taken, self._taken = tuple(self._taken), []
        return taken

    def changed(self) -> None:
        """Tell the fleet soon that load or state changed."""
        if self._heartbeat is not None:
            self._heartbeat.changed()

    async def beat_now(self) -> None:
        if self._heartbeat is not None and self.control.connected:
            await self._heartbeat.send()

    def send_frames(self, frames: Iterable[tuple[str, TokenFrame]]) -> None:
        """One message per gateway for all its frames of this step."""
        by_gateway: dict[str, list[TokenFrame]] = defaultdict(list)
        for gateway, frame in frames:
            by_gateway[gateway].append(frame)
        for gateway, batch in by_gateway.items():
            self._say(gateway, batch)
            for frame in batch:
                self._said.add(frame)

    def _say(self, gateway: str, frames: Sequence[TokenFrame]) -> None:
        self.control_out.post(subjects.tokens(gateway), TokenBatch(worker=self.identity.worker, frames=tuple(frames)))

    def _on_repeat(self, _subject: str, data: bytes) -> None:
        try:
            repeat = decode(Repeat, data)
        except ProtocolError as error:
            logger.warning("request to repeat refused: %s", error)
            return
        frames = self._said.again(repeat)
        for start in range(0, len(frames), REPEATED_FRAMES):
            self._say(repeat.gateway, frames[start : start + REPEATED_FRAMES])

    async def announce(self, gateway: str, frame: TokenFrame) -> None:
        """Send `frame` and return when the server has it: whatever happens to this process then, it was said."""
        self.send_frames([(gateway, frame)])
        await self.control_out.drain()
        with contextlib.suppress(Unavailable):
            await self.control.flush()

    async def close(self) -> None:
        """Publish what was posted and disconnect; the outboxes' tasks must still run. Idempotent."""
        if self.control.connected and self.tenure.state is TenureState.HELD:
            await self.control_out.drain()
        await self.kv.close()
        await self.control.close()

    def _hear(self, _subject: str, data: bytes) -> None:
        try:
            beat = decode(Beat, data)
        except ProtocolError:
            return
        self.gateways.contact()
        if beat.role is Role.GATEWAY:
            self.gateways.hear(beat)
        elif beat.worker == self.identity.worker and beat.role is self.identity.role:
            self._hear_own(beat)

    def _hear_own(self, beat: Beat) -> None:
        if beat.boot == self.tenure.boot:
            self.tenure.heard(beat.number)

    async def _may_speak(self) -> None:
        """Wait until what is published is not only buffered. nats-py tells of a loss a moment after it knows."""
        await self.tenure.may_speak()
        while not self.control.connected:
            self.tenure.disconnected()
            await self.tenure.may_speak()

    def _disconnected(self) -> None:
        self.gateways.suspend()
        self.tenure.disconnected()

    def _reconnected(self) -> None:
        self.gateways.resume()
        self.tenure.reconnected()
        self.changed()

    def _forfeit(self) -> None:
        if self._keeper is not None:
            self._keeper.forfeit()
