"""How a pair's cache travels: the first way decode asks for that prefill can send."""

from __future__ import annotations

import pytest
from scheduler_words import ScriptedWorkers, decode_beat, fleet_of, prefill_beat, request

from services.scheduler.placer import Placer


@pytest.mark.parametrize(
    ("asked", "can", "chosen"),
    [
        (("exact",), ("int8", "exact"), "exact"),
        (("int8", "exact"), ("int8", "exact"), "int8"),
        (("int8", "exact"), ("exact",), "exact"),
        (("int4", "int8", "exact"), ("int8", "exact"), "int8"),
        (("int4",), ("int8",), "exact"),
        ((), (), "exact"),
    ],
)
async def test_the_run_says_what_the_pair_has_in_common(
    asked: tuple[str, ...], can: tuple[str, ...], chosen: str
) -> None:
    workers = ScriptedWorkers()
    workers.kv_encodings = asked
    fleet = fleet_of(decode_beat("d0", kv_encodings=asked), prefill_beat("p0", kv_encodings=can))
    assert await Placer(fleet, workers).place(request(), 5000) is not None
    assert [run.kv_encoding for run in workers.runs] == [chosen]
