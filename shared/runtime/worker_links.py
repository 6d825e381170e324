"""What a prefill and a decode worker share of the outside: two connections, outboxes, heartbeat, who is alive.

Bulk has its own connection, so that KV can neither delay nor cut control messages and tokens.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

import msgspec

from shared.bus.connection import Bus
from shared.bus.data_plane.connection import DataPlane
from shared.bus.liveness import Liveness
from shared.bus.outbox import Outbox
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.errors import ProtocolError, Unavailable
from shared.protocol import subjects
from shared.protocol.to_all import Beat
from shared.protocol.to_gateway import TokenBatch, TokenFrame
from shared.protocol.wire import decode
from shared.runtime.beats import Heartbeat
from shared.runtime.tasks import Tasks


class WorkerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a worker is on the bus."""

    role: Role
    worker: str
    boot: str


class WorkerLinks:
    """The connections of one worker. Build with `open`, end with `close`; tasks belong to the `tasks` passed in."""

    def __init__(self, identity: WorkerIdentity, control: Bus, kv: DataPlane, gateways: Liveness, tasks: Tasks) -> None:
        self.identity = identity
        self.control = control
        self.kv = kv
        self.control_out = Outbox(control)
        self.kv_out = Outbox(kv)
        self.gateways = gateways
        self._tasks = tasks
        self._heartbeat: Heartbeat | None = None

    @property
    def boot(self) -> str:
        """Which start of the worker speaks; whoever is given a session is told."""
        return self.identity.boot

    @classmethod
    async def open(cls, identity: WorkerIdentity, settings: BusSettings, tasks: Tasks) -> WorkerLinks:
        """Connect both and start the outboxes. Leaves no connection behind when it does not succeed."""
        name = f"{identity.role.value} {identity.worker}"
        gateways = Liveness()
        async with AsyncExitStack() as opened:
            control = await Bus.connect(
                settings,
                name=name,
                spawn=tasks.start,
                on_disconnect=gateways.suspend,
                on_reconnect=gateways.resume,
            )
            opened.push_async_callback(control.close)
            kv = await DataPlane.connect(settings, name=f"{name} kv", spawn=tasks.start)
            opened.push_async_callback(kv.close)
            links = cls(identity, control, kv, gateways, tasks)
            await control.listen(subjects.BEATS, links._hear)
            opened.pop_all()
        tasks.start(links.control_out.run(), name="control outbox")
        tasks.start(links.kv_out.run(), name="kv outbox")
        return links

    def start_heartbeat(self, make: Callable[[], Beat], interval_s: float) -> None:
        self._heartbeat = Heartbeat(self.control, make, interval_s)
        self._tasks.start(self._heartbeat.run(), name="heartbeat")

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
            message = TokenBatch(worker=self.identity.worker, frames=tuple(batch))
            self.control_out.post(subjects.tokens(gateway), message)

    async def announce(self, gateway: str, frame: TokenFrame) -> None:
        """Send `frame` and return when the server has it: whatever happens to this process then, it was said."""
        self.send_frames([(gateway, frame)])
        await self.control_out.drain()
        with contextlib.suppress(Unavailable):
            await self.control.flush()

    async def close(self) -> None:
        """Publish what was posted and disconnect; the outboxes' tasks must still run. Idempotent."""
        if self.control.connected:
            await self.control_out.drain()
        await self.kv.close()
        await self.control.close()

    def _hear(self, _subject: str, data: bytes) -> None:
        try:
            beat = decode(Beat, data)
        except ProtocolError:
            return
        if beat.role is Role.GATEWAY:
            self.gateways.hear(beat)
