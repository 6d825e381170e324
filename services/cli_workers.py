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
from shared.core import KvEncoding, Role
from shared.errors import ProtocolError, Unavailable
from shared.protocol import subjects
from shared.protocol.pairing import OTHER_PHASE, differ, differences, meet
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
    for line in notes(beats):
        console.print(line, markup=False)
    return 0


def fleet_table(beats: Sequence[Beat]) -> Table:
    """One row per process."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in (
        "role",
        "id",
        "state",
        "model",
        "pairs with",
        "KV sent or taken",
        "KV free, MiB",
        "sessions",
        "queued tokens",
    ):
        table.add_column(heading, no_wrap=heading not in ("model", "pairs with"), overflow="fold")
    for beat in beats:
        table.add_row(
            beat.role.value,
            beat.worker,
            beat.state.value,
            beat.model or "-",
            _partners(beat, beats),
            _encodings(beat),
            f"{_mib(beat.kv_free_bytes)} of {_mib(beat.kv_total_bytes)}" if beat.kv_total_bytes else "-",
            f"{beat.sessions} of {beat.session_limit}" if beat.session_limit else str(beat.sessions),
            str(beat.queued_tokens) if beat.queue_limit_tokens else "-",
        )
    return table


def notes(beats: Sequence[Beat]) -> list[str]:
    """How the workers of each model compute, where they do so in different ways."""
    lines = []
    for fingerprint in sorted({beat.fingerprint for beat in beats if beat.arithmetic}):
        alike = [beat for beat in beats if beat.fingerprint == fingerprint and beat.arithmetic]
        ways = sorted({beat.arithmetic for beat in alike})
        if len(ways) > 1:
            model = alike[0].model
            lines.append(f"Workers of {model} round differently: a stream that moves may go on with other tokens.")
            lines += [f"  {way}: {', '.join(one.worker for one in alike if one.arithmetic == way)}" for way in ways]
    return lines


def _partners(beat: Beat, beats: Sequence[Beat]) -> str:
    """`p-0; not p-1: rope differs`."""
    met = [(other.worker, differences(beat, other)) for other in beats if meet(beat, other)]
    pairs = ", ".join(worker for worker, parts in met if not parts)
    others = [f"not {worker}: {differ(parts)}" for worker, parts in met if parts]
    return "; ".join(filter(None, [pairs, *others])) or "-"


def _encodings(beat: Beat) -> str:
    """How its caches may travel; what is lossy says so."""
    if beat.role not in OTHER_PHASE:
        return "-"
    labels = {encoding.value: encoding.label for encoding in KvEncoding}
    return ", ".join(labels.get(name, name) for name in beat.kv_encodings)


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
