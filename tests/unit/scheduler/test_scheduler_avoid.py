"""Workers on which a session failed before are asked last."""

from __future__ import annotations

from scheduler_words import ScriptedWorkers, decode_beat, fleet_of, placement, prefill_beat, request

from services.scheduler.placer import Placer
from shared.errors import Overloaded


async def test_a_worker_to_avoid_is_asked_last() -> None:
    fleet = fleet_of(decode_beat("d0"), decode_beat("d1"), prefill_beat("p0"), prefill_beat("p1"))
    placer = Placer(fleet, ScriptedWorkers())
    assert await placer.place(request(avoid=("p0", "d0")), 5000) == placement(prefill="p1", decode="d1")


async def test_a_worker_to_avoid_is_better_than_none() -> None:
    fleet = fleet_of(decode_beat("d0"), decode_beat("d1"), prefill_beat("p0"))
    workers = ScriptedWorkers()
    workers.answers["d1"] = [Overloaded("full")]
    found = await Placer(fleet, workers).place(request(avoid=("p0", "d0")), 5000)
    assert found == placement(prefill="p0", decode="d0")
