"""Whether a worker's sessions are its own, on an injected clock."""

from __future__ import annotations

import asyncio

import pytest

from shared.bus.lease import LEASE_BEATS, Lease
from shared.runtime.beats import same_process
from shared.runtime.tenure import KEEP_S, Tenure, TenureState

pytestmark = pytest.mark.timeout(10)


class Worker:
    """A tenure with what is around it: beats every second, on a clock the test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.forfeits = 0
        self.lease = Lease(1.0, lambda: self.now_s)
        self.tenure = Tenure(self.lease, self._forfeit, lambda: self.now_s)

    def heard(self) -> None:
        """A beat goes and comes back."""
        self.tenure.heard(self.lease.sent())

    def sleeps(self, duration_s: float) -> None:
        self.now_s += duration_s

    async def free(self) -> tuple[bool, bool]:
        """Whether it may step, and speak, now."""
        waits = [asyncio.ensure_future(self.tenure.may_step()), asyncio.ensure_future(self.tenure.may_speak())]
        for _ in range(3):
            await asyncio.sleep(0)
        done = (waits[0].done(), waits[1].done())
        for wait in waits:
            wait.cancel()
        return done

    def _forfeit(self) -> None:
        assert self.tenure.state is TenureState.FORFEITED
        self.forfeits += 1


@pytest.fixture
async def worker() -> Worker:
    return Worker()


async def test_while_it_is_heard_it_steps_and_speaks(worker: Worker) -> None:
    for _ in range(10):
        worker.heard()
        worker.sleeps(1.0)
        assert await worker.free() == (True, True)


async def test_cut_off_it_steps_for_as_long_as_the_lease_runs_and_says_nothing(worker: Worker) -> None:
    worker.tenure.disconnected()
    assert await worker.free() == (True, False)
    worker.sleeps(LEASE_BEATS)
    assert await worker.free() == (False, False)


async def test_back_in_time_it_asks_and_then_goes_on(worker: Worker) -> None:
    worker.tenure.disconnected()
    worker.tenure.reconnected()
    assert worker.tenure.state is TenureState.ASKING
    assert await worker.free() == (False, False)
    worker.tenure.asked()
    assert await worker.free() == (True, True)
    assert worker.forfeits == 0


async def test_after_its_lease_it_waits_to_be_heard_and_asks(worker: Worker) -> None:
    worker.tenure.disconnected()
    worker.sleeps(LEASE_BEATS + 1.0)
    worker.tenure.reconnected()
    assert worker.tenure.state is TenureState.LAPSED
    assert worker.tenure.lapsed_for_s() == 1.0
    worker.heard()
    assert worker.tenure.state is TenureState.ASKING
    worker.tenure.asked()
    assert worker.tenure.state is TenureState.HELD
    assert worker.tenure.lapsed_for_s() == 0.0


async def test_a_process_that_slept_notices_before_it_says_anything(worker: Worker) -> None:
    """Nothing was told of it, and the first it hears are its own beats: from before, and from now."""
    before = worker.lease.sent()
    worker.sleeps(LEASE_BEATS + 0.5)
    assert await worker.free() == (False, False)
    worker.tenure.heard(before)
    assert worker.tenure.state is TenureState.LAPSED
    worker.heard()
    assert worker.tenure.state is TenureState.ASKING


async def test_a_process_that_slept_notices_even_if_its_own_beat_is_the_first_to_be_heard(worker: Worker) -> None:
    worker.sleeps(LEASE_BEATS + 0.5)
    worker.heard()
    assert worker.tenure.state is TenureState.ASKING


async def test_cut_off_for_long_it_comes_back_with_nothing_and_another_boot(worker: Worker) -> None:
    boot = worker.tenure.boot
    worker.sleeps(LEASE_BEATS + KEEP_S + 0.1)
    assert await worker.free() == (False, False)
    assert worker.forfeits == 1
    assert worker.tenure.boot != boot
    assert same_process(worker.tenure.boot, boot)
    worker.sleeps(100.0)
    assert worker.tenure.state is TenureState.FORFEITED
    worker.heard()
    assert await worker.free() == (True, True)
    assert worker.forfeits == 1


async def test_a_connection_that_breaks_while_it_asks_is_asked_for_again(worker: Worker) -> None:
    worker.tenure.disconnected()
    worker.tenure.reconnected()
    worker.tenure.disconnected()
    worker.tenure.asked()
    assert worker.tenure.state is TenureState.CUT
    worker.tenure.reconnected()
    assert worker.tenure.state is TenureState.ASKING


async def test_who_waits_goes_on_when_it_is_heard(worker: Worker) -> None:
    worker.sleeps(LEASE_BEATS + KEEP_S + 0.1)
    waiting = asyncio.ensure_future(worker.tenure.may_speak())
    await asyncio.sleep(0)
    worker.heard()
    await waiting


async def test_waiting_for_a_change_ends_in_time(worker: Worker) -> None:
    await worker.tenure.changed(within_s=0.001)
