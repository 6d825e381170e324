"""What the processes say of themselves: their beats, heard as any bystander hears them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.errors import ProtocolError
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks

SILENT_S = 2.0


class Ears:
    """The last beat of each process, and when it came."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._bus: Bus | None = None
        self._beats: dict[str, tuple[float, Beat]] = {}
        self._heard = asyncio.Condition()

    async def open(self, nats_url: str) -> None:
        """Listen, from when NATS is there."""
        self._bus = await Bus.connect(BusSettings(url=nats_url), name="soak", spawn=self._tasks.start)
        await self._bus.listen(subjects.BEATS, self._hear)
        await self._bus.flush()

    async def close(self) -> None:
        if self._bus is not None:
            await self._bus.close()

    def ready_since(self, name: str, since_s: float) -> bool:
        """Whether `name` was heard after `since_s`, and lately, to take work."""
        heard_s, beat = self._beats.get(name, (0.0, None))
        if beat is None or heard_s <= since_s or time.monotonic() - heard_s > SILENT_S:
            return False
        return beat.state is WorkerState.READY

    def beat(self, name: str) -> Beat:
        """The last one of `name`. Raises KeyError when it was never heard."""
        return self._beats[name][1]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`, which is asked at every beat."""
        async with self._heard:
            await self._heard.wait_for(holds)

    def _hear(self, _subject: str, data: bytes) -> None:
        try:
            beat = decode(Beat, data)
        except ProtocolError:
            return
        self._beats[beat.worker] = (time.monotonic(), beat)
        self._tasks.start(self._tell(), name="tell")

    async def _tell(self) -> None:
        async with self._heard:
            self._heard.notify_all()


def held(beat: Beat) -> int:
    """KV bytes that are not free."""
    return beat.kv_total_bytes - beat.kv_free_bytes if beat.role in (Role.PREFILL, Role.DECODE) else 0
