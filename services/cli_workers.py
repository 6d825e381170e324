"""`baton workers`: who lives in the fleet, heard from the beats of a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from services.cli_settings import WorkersSettings, load_settings
from shared.bus.connection import Bus
from shared.bus.liveness import Liveness
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.errors import ProtocolError, Unavailable
from shared.protocol import subjects
from shared.protocol.to_all import Beat
from shared.protocol.wire import decode
from shared.runtime.tasks import Tasks

CONNECT_TIMEOUT_S = 5.0
FILE_COLUMNS = 160


def main(argv: Sequence[str]) -> int:
    settings = load_settings(WorkersSettings, "workers", argv, "List the live processes of the fleet.")
    beats = asyncio.run(_listen(settings))
    if not beats:
        raise Unavailable(f"nobody lives on {settings.nats.url}")
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=FILE_COLUMNS)
    console.print(fleet_table(beats))
    return 0


def fleet_table(beats: Sequence[Beat]) -> Table:
    """One row per process."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("role", "id", "state", "model", "fingerprint", "KV free, MiB", "sessions", "queued tokens"):
        table.add_column(heading, no_wrap=heading not in ("model", "fingerprint"), overflow="fold")
    for beat in beats:
        table.add_row(
            beat.role.value,
            beat.worker,
            beat.state.value,
            beat.model or "-",
            beat.fingerprint or "-",
            f"{_mib(beat.kv_free_bytes)} of {_mib(beat.kv_total_bytes)}" if beat.kv_total_bytes else "-",
            f"{beat.sessions} of {beat.session_limit}" if beat.session_limit else str(beat.sessions),
            str(beat.queued_tokens) if beat.queue_limit_tokens else "-",
        )
    return table


async def _listen(settings: WorkersSettings) -> list[Beat]:
    liveness = Liveness()

    def hear(_subject: str, data: bytes) -> None:
        try:
            liveness.hear(decode(Beat, data))
        except ProtocolError:
            return

    async with Tasks("workers") as tasks:
        bus = await _connect(settings.nats, tasks)
        await bus.listen(subjects.BEATS, hear)
        await asyncio.sleep(settings.listen_s)
        await bus.close()
    return [beat for role in Role for beat in sorted(liveness.alive(role), key=lambda beat: beat.worker)]


async def _connect(nats: BusSettings, tasks: Tasks) -> Bus:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await Bus.connect(nats, name="baton workers", spawn=tasks.start)
    except TimeoutError:
        raise Unavailable(f"no NATS server answers at {nats.url}") from None


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.0f}"
