"""The reaper: a gateway is dead after its liveness and a grace, on the clock it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.bus.liveness import MISSED_BEATS, Liveness
from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState
from shared.runtime import reaper
from shared.runtime.reaper import GRACE_S, Reaper
from shared.runtime.tasks import Tasks

INTERVAL_S = 0.5


class Setting:
    """`held` are the gateways of the sessions held; `dead` the last look's verdict."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.held = ["g"]
        self.dead: list[str] = []
        self.gateways = Liveness(self.clock)
        self.reaper = Reaper(self.gateways, self.reap, self.clock)

    def clock(self) -> float:
        return self.now_s

    def reap(self, silent: Callable[[str], bool]) -> None:
        self.dead = [gateway for gateway in self.held if silent(gateway)]

    def beat(self, state: WorkerState = WorkerState.READY) -> None:
        self.gateways.hear(
            Beat(worker="g", role=Role.GATEWAY, boot="b", state=state, interval_ms=round(INTERVAL_S * 1000))
        )

    def look_after(self, seconds: float) -> list[str]:
        self.now_s += seconds
        self.reaper.look()
        return self.dead


@pytest.fixture
def it() -> Setting:
    return Setting()


def test_a_gateway_that_beats_is_not_dead(it: Setting) -> None:
    for _ in range(100):
        it.beat()
        assert it.look_after(INTERVAL_S) == []


def test_a_silent_gateway_is_dead_after_its_liveness_and_the_grace(it: Setting) -> None:
    it.beat()
    assert it.look_after(MISSED_BEATS * INTERVAL_S + 0.01) == []
    assert it.look_after(GRACE_S - 0.01) == []
    assert it.look_after(0.02) == ["g"]


def test_a_gateway_never_heard_of_has_the_grace(it: Setting) -> None:
    assert it.look_after(0) == []
    assert it.look_after(GRACE_S) == []
    assert it.look_after(0.01) == ["g"]


def test_a_farewell_starts_the_grace_at_once(it: Setting) -> None:
    it.beat()
    it.beat(WorkerState.STOPPED)
    assert it.look_after(0) == []
    assert it.look_after(GRACE_S + 0.01) == ["g"]


def test_a_beat_within_the_grace_starts_all_over(it: Setting) -> None:
    it.look_after(0)
    it.look_after(GRACE_S - 0.01)
    it.beat()
    assert it.look_after(0.02) == []
    assert it.look_after(MISSED_BEATS * INTERVAL_S + 0.01) == []
    assert it.look_after(GRACE_S - 0.01) == []


def test_a_gateway_whose_sessions_ended_is_forgotten(it: Setting) -> None:
    """Its next session, much later, must have the whole grace."""
    it.look_after(0)
    it.held = []
    it.look_after(GRACE_S - 0.01)
    it.held = ["g"]
    assert it.look_after(0.02) == []
    assert len(it.reaper._silent_since) == 1


def test_many_sessions_of_one_gateway_share_its_verdict(it: Setting) -> None:
    it.held = ["g"] * 3
    it.look_after(0)
    assert it.look_after(GRACE_S + 0.01) == ["g"] * 3


@pytest.mark.timeout(10)
async def test_it_looks_again_and_again(it: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "INTERVAL_S", 0.001)
    looks = 0
    thrice = asyncio.Event()

    def reap(_silent: Callable[[str], bool]) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            thrice.set()

    async with Tasks("test") as tasks:
        tasks.start(Reaper(it.gateways, reap).run(), name="reaper")
        await thrice.wait()
