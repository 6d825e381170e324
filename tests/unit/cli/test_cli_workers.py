"""`baton workers` on a real NATS server."""

from __future__ import annotations

import asyncio
import io

import msgspec
import pytest
from rich.console import Console

from services.cli_settings import WorkersSettings
from services.cli_workers import _listen, fleet_table, main, notes
from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.core import ModelParts, Role
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.runtime.tasks import Tasks


def beat(worker: str, role: Role) -> Beat:
    return Beat(
        worker=worker,
        role=role,
        boot="1",
        state=WorkerState.READY,
        interval_ms=500,
        model="m",
        fingerprint="ab",
        kv_total_bytes=64 << 20,
        kv_free_bytes=32 << 20,
    )


def shown(*beats: Beat) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(fleet_table(beats))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_says_who_pairs_and_why_others_do_not() -> None:
    other = msgspec.structs.replace(beat("d-1", Role.DECODE), fingerprint="cd", parts=ModelParts(rope="2"))
    text = shown(beat("p-0", Role.PREFILL), beat("d-0", Role.DECODE), other)
    assert "d-0; not d-1: rope differs" in text
    assert "not p-0: rope differs" in text


def test_it_says_how_caches_travel_and_what_is_lossy() -> None:
    asks = msgspec.structs.replace(beat("d-0", Role.DECODE), kv_encodings=("int8", "exact"))
    assert "int8 (lossy), exact" in shown(asks)
    assert "exact" not in shown(beat("g-0", Role.GATEWAY))


def test_it_says_when_workers_round_differently() -> None:
    ways = [msgspec.structs.replace(beat(f"d-{way}", Role.DECODE), arithmetic=way) for way in ("avx2", "amx")]
    assert notes(ways)[1:] == ["  amx: d-amx", "  avx2: d-avx2"]
    assert notes(ways[:1]) == []


async def test_it_lists_who_beats_by_role(nats_url: str) -> None:
    settings = WorkersSettings(nats=BusSettings(url=nats_url), listen_s=0.5)
    async with Tasks("test") as tasks:
        bus = await Bus.connect(settings.nats, name="test", spawn=tasks.start)

        async def beats() -> None:
            while True:
                for sent in (beat("d-1", Role.DECODE), beat("d-0", Role.DECODE), beat("p-0", Role.PREFILL)):
                    await bus.send(subjects.beat(sent.role, sent.worker), sent)
                await asyncio.sleep(0.02)

        beating = tasks.start(beats(), name="beats")
        heard = await _listen(settings)
        beating.cancel()
        await bus.close()
    assert [found.worker for found in heard] == ["p-0", "d-0", "d-1"]


def test_a_fleet_is_shown_as_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def heard(_settings: WorkersSettings) -> list[Beat]:
        return [beat("d-1", Role.DECODE)]

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("services.cli_workers._listen", heard)
    assert main([]) == 0
    out = capsys.readouterr().out
    for part in ("decode", "d-1", "ready", "32 of 64"):
        assert part in out
