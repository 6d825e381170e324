"""Messages that cross each other, against real workers: whatever the order, nothing stays held."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from shared.bus.connection import Bus
from shared.core import Role
from shared.errors import BatonError, Cancelled, Overloaded
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel, Claim, ClaimGranted
from shared.protocol.to_prefill import RunAccepted, RunPrefill

from .conftest import MakeFleet
from .engines import GatedEngine
from .fleet import Fleet, eventually
from .orders import claim, run_for


class Scheduler:
    """Speaks with workers as a scheduler does."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def claim(self, order: Claim, worker: str = "d0") -> ClaimGranted:
        return await self._bus.request(subjects.claim(worker), order, ClaimGranted, 5.0)

    async def run(self, order: RunPrefill, worker: str = "p0") -> RunAccepted:
        return await self._bus.request(subjects.run(worker), order, RunAccepted, 5.0)

    async def cancel(self, order: Claim, *, fence: bool) -> None:
        cancel = Cancel(session=order.session, epoch=order.epoch, fence=fence)
        await self._bus.send(subjects.cancel(Role.DECODE, "d0"), cancel)
        await self._bus.send(subjects.cancel(Role.PREFILL, "p0"), cancel)
        await self._bus.flush()


@pytest.fixture
def scheduler(outsider: Bus) -> Scheduler:
    return Scheduler(outsider)


async def test_a_claim_sent_twice_is_one_claim(fleet: Fleet, scheduler: Scheduler):
    order = claim()
    first, second = await asyncio.gather(scheduler.claim(order), scheduler.claim(order))
    assert first == second
    assert fleet.sessions_on("d0") == 1
    await scheduler.cancel(order, fence=True)
    await fleet.at_rest(within_s=1)


async def test_a_cancel_before_its_claim_keeps_the_claim_out(fleet: Fleet, scheduler: Scheduler):
    order = claim()
    await scheduler.cancel(order, fence=True)
    with pytest.raises(Cancelled):
        await scheduler.claim(order)


async def test_a_claim_taken_back_may_come_again_in_its_epoch(fleet: Fleet, scheduler: Scheduler):
    order = claim()
    first = await scheduler.claim(order)
    await scheduler.cancel(order, fence=False)
    again = await scheduler.claim(order)
    assert first.transfer != again.transfer
    await scheduler.cancel(order, fence=True)


async def test_a_claim_right_behind_its_cancel_holds_a_session_of_its_own(fleet: Fleet, outsider: Bus):
    for _ in range(20):
        order = claim()
        first = await outsider.request(subjects.claim("d0"), order, ClaimGranted, 5.0)
        back = Cancel(session=order.session, epoch=0, fence=False)
        await outsider.send(subjects.cancel(Role.DECODE, "d0"), back)
        again = await outsider.request(subjects.claim("d0"), order, ClaimGranted, 5.0)
        assert again.transfer != first.transfer
        assert fleet.sessions_on("d0") == 1
        await outsider.send(subjects.cancel(Role.DECODE, "d0"), back)
    await fleet.at_rest(within_s=1)


@pytest.mark.parametrize("fence", [True, False])
async def test_a_cancel_right_behind_its_claim_ends_it(fleet: Fleet, scheduler: Scheduler, fence: bool):
    order = claim()
    answers = await asyncio.gather(scheduler.claim(order), scheduler.cancel(order, fence=fence), return_exceptions=True)
    assert isinstance(answers[0], ClaimGranted | Cancelled | Overloaded)
    await fleet.at_rest(within_s=1)


@pytest.mark.parametrize("fence", [True, False])
async def test_a_cancel_right_behind_its_run_ends_it(fleet: Fleet, scheduler: Scheduler, fence: bool):
    order = claim(prompt_tokens=1000)
    grant = await scheduler.claim(order)
    answers = await asyncio.gather(
        scheduler.run(run_for(order, grant)), scheduler.cancel(order, fence=fence), return_exceptions=True
    )
    assert isinstance(answers[0], RunAccepted | Cancelled | Overloaded)
    await fleet.at_rest(within_s=1)


async def test_many_claims_and_cancels_at_once_leave_nothing(fleet: Fleet, scheduler: Scheduler):
    orders = [claim(prompt_tokens=10 + number) for number in range(40)]
    await asyncio.gather(
        *(scheduler.claim(order) for order in orders),
        *(scheduler.cancel(order, fence=bool(index % 2)) for index, order in enumerate(orders)),
        return_exceptions=True,
    )
    await fleet.at_rest(within_s=2)


async def test_a_newer_epoch_takes_the_place_of_one_in_a_step(make_fleet: MakeFleet, scheduler: Scheduler):
    engine = GatedEngine()
    fleet = await make_fleet(make_decode=lambda: engine)
    order = claim(max_tokens=1000)
    grant = await scheduler.claim(order)
    engine.step_gate.shut()
    await scheduler.run(run_for(order, grant))
    await engine.step_gate.reached.wait()
    newer = msgspec.structs.replace(order, epoch=1)
    second = await scheduler.claim(newer)
    assert second.transfer != grant.transfer
    used = engine.usage().total_bytes - engine.usage().free_bytes
    assert used == 2 * 1100 * engine.spec.layout.token_bytes, "the running step still needs the older one"
    engine.step_gate.open()
    await eventually(lambda: engine.usage().total_bytes - engine.usage().free_bytes == used // 2)
    assert fleet.sessions_on("d0") == 1
    with pytest.raises(Cancelled):
        await scheduler.claim(order)
    await scheduler.cancel(newer, fence=True)


async def test_a_session_that_leaves_a_step_is_not_granted_again_before_it_is_free(
    make_fleet: MakeFleet, scheduler: Scheduler
):
    engine = GatedEngine()
    fleet = await make_fleet(make_decode=lambda: engine)
    order = claim(max_tokens=1000)
    grant = await scheduler.claim(order)
    engine.step_gate.shut()
    await scheduler.run(run_for(order, grant))
    await engine.step_gate.reached.wait()
    await scheduler.cancel(order, fence=False)
    with pytest.raises(Overloaded):
        await scheduler.claim(order)
    engine.step_gate.open()
    await fleet.at_rest(within_s=1)
    assert (await scheduler.claim(order)).transfer != grant.transfer
    await scheduler.cancel(order, fence=True)


async def test_a_run_that_leaves_a_call_is_not_accepted_again_before_it_is_free(
    make_fleet: MakeFleet, scheduler: Scheduler
):
    engine = GatedEngine()
    fleet = await make_fleet(make_prefill=lambda: engine)
    order = claim(prompt_tokens=300)
    grant = await scheduler.claim(order)
    engine.prefill_gate.shut()
    await scheduler.run(run_for(order, grant))
    await engine.prefill_gate.reached.wait()
    await scheduler.cancel(order, fence=False)
    grant = await scheduler.claim(order)
    with pytest.raises(Overloaded):
        await scheduler.run(run_for(order, grant))
    engine.prefill_gate.open()
    await eventually(lambda: not fleet.sessions_on("p0"))
    await scheduler.run(run_for(order, grant))
    await fleet.at_rest()


async def test_a_run_for_another_transfer_replaces_the_one_that_is_held(make_fleet: MakeFleet, scheduler: Scheduler):
    engine = GatedEngine()
    fleet = await make_fleet(make_prefill=lambda: engine)
    order = claim(prompt_tokens=300)
    grant = await scheduler.claim(order)
    engine.prefill_gate.shut()
    await scheduler.run(run_for(order, grant, transfer=(grant.transfer + 1) % (1 << 32)))
    with pytest.raises(Overloaded):
        await scheduler.run(run_for(order, grant))
    engine.prefill_gate.open()
    await eventually(lambda: not fleet.sessions_on("p0"))
    await scheduler.run(run_for(order, grant))
    await fleet.at_rest()


async def test_what_is_refused_holds_nothing(fleet: Fleet, scheduler: Scheduler):
    bad = [
        claim(fingerprint="0" * 16),
        claim(max_tokens=5000),
        claim(prompt_ids=b""),
        claim(prompt_ids=b"\x00\x00\x00"),
        claim(prompt_ids=b"\xff\xff\xff\xff"),
        claim(emitted=16),
        claim(deadline_ms=0),
    ]
    for order in bad:
        with pytest.raises(BatonError):
            await scheduler.claim(order)
    assert fleet.leftovers() == []
