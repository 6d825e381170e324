"""Who is ready, by the beats heard."""

from __future__ import annotations

import pytest

from services.local.roll_call import RollCall
from shared.core import Role
from shared.errors import DeadlineExceeded, WorkerFailed
from shared.protocol.to_all import Beat, WorkerState


def beat(worker: str, boot: str = "1", state: WorkerState = WorkerState.READY) -> Beat:
    return Beat(worker=worker, role=Role.DECODE, boot=boot, state=state, interval_ms=500)


async def test_it_is_complete_when_all_are_ready() -> None:
    ready: list[str] = []
    roll_call = RollCall(["a", "b"], ready.append)
    for heard in (beat("a"), beat("a"), beat("stranger"), beat("b", state=WorkerState.STARTING), beat("b")):
        roll_call.hear(heard)
    await roll_call.complete(timeout_s=1)
    assert ready == ["a", "b"]


async def test_a_restarted_process_is_ready_again() -> None:
    ready: list[str] = []
    roll_call = RollCall(["a"], ready.append)
    roll_call.hear(beat("a", boot="1"))
    roll_call.hear(beat("a", boot="2"))
    assert ready == ["a", "a"]


async def test_the_missing_are_named_when_time_is_up() -> None:
    roll_call = RollCall(["a", "b", "c"], lambda _name: None)
    roll_call.hear(beat("b"))
    with pytest.raises(DeadlineExceeded, match="a, c"):
        await roll_call.complete(timeout_s=0)


async def test_whoever_can_never_be_ready_ends_the_wait() -> None:
    roll_call = RollCall(["a"], lambda _name: None)
    roll_call.give_up(WorkerFailed("a ended"))
    with pytest.raises(WorkerFailed, match="a ended"):
        await roll_call.complete(timeout_s=60)
