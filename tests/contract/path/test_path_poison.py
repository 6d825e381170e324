"""A prompt that makes the engine raise: it fails alone, and once it has failed on two workers it is refused."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.engine.fake import FakeEngine, FakePace, FakePoison
from shared.errors import EngineFailed, Quarantined
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine, spec
from .fleet import Fleet, colocated, eventually, token_ids
from .prompts import prompt

POISON = 255
BAD = [POISON, 1, 2]
TOKENS = 60


def poisoned() -> FakeEngine:
    served = spec()
    kv_bytes = 16384 * served.layout.token_bytes
    return FakeEngine(served, kv_bytes, FakePace(prefill_token_s=0.0001, step_s=0.001), FakePoison(error=POISON))


def innocent(number: int) -> list[int]:
    return [token % POISON for token in prompt(20 + number)]


async def is_whole(fleet: Fleet, number: int) -> bool:
    deltas = await fleet.generate(innocent(number), TOKENS)
    return token_ids(deltas) == colocated(engine(), innocent(number), TOKENS)[0]


async def of_phase(make_fleet: MakeFleet, phase: str, **shape: object) -> Fleet:
    return await make_fleet(
        make_prefill=poisoned if phase == "prefill" else engine,
        make_decode=poisoned if phase == "decode" else lambda: engine(step_s=0.001),
        **shape,
    )


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_it_fails_alone(make_fleet: MakeFleet, clients: Tasks, phase: str):
    fleet = await of_phase(make_fleet, phase, attempts=1)
    beside = [clients.start(is_whole(fleet, number), name="innocent") for number in range(12)]
    await eventually(lambda: fleet.sessions_on("d0") >= 6)
    with pytest.raises(EngineFailed):
        await fleet.generate(BAD, 10)
    assert all(await asyncio.gather(*beside))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_after_two_workers_it_is_refused_at_once_with_the_same_error(make_fleet: MakeFleet, phase: str):
    fleet = await of_phase(make_fleet, phase, prefills=2, decodes=2)
    with pytest.raises(Quarantined):
        await fleet.generate(BAD, 10)
    began_s = time.monotonic()
    for _ in range(20):
        with pytest.raises(Quarantined):
            await fleet.generate(BAD, 10)
    assert time.monotonic() - began_s < 0.5
    assert await is_whole(fleet, 1)


async def test_an_engine_that_fails_on_everyone_ends_its_worker(make_fleet: MakeFleet):
    fleet = await of_phase(make_fleet, "prefill", attempts=1)
    for number in range(3):
        with pytest.raises(EngineFailed):
            await fleet.generate([POISON, number], 10)
    await eventually(lambda: bool(fleet.failures))
    assert [type(failure) for failure in fleet.failures] == [EngineFailed]
    fleet.failures.clear()
    await fleet.stop_worker("p0")


async def test_workers_that_end_at_its_first_step_convict_it_and_nobody_who_waits_there(
    make_fleet: MakeFleet, clients: Tasks
):
    gated = [GatedEngine(), GatedEngine()]
    ready = iter([*gated, engine()])
    fleet = await make_fleet(make_decode=lambda: next(ready))
    for each in gated:
        each.step_gate.shut()
    bad = clients.start(fleet.generate(BAD, 10), name="bad")
    await gated[0].step_gate.reached.wait()
    await fleet.start_decode("d1")
    await fleet.ready()
    await fleet.lose_worker("d0")
    await gated[1].step_gate.reached.wait()
    beside = clients.start(is_whole(fleet, 1), name="beside")
    await eventually(lambda: fleet.sessions_on("d1") == 2 and not fleet.sessions_on("p0"))
    await fleet.start_decode("d2")
    await fleet.ready()
    await fleet.lose_worker("d1")
    with pytest.raises(Quarantined):
        await bad
    assert await beside
    for each in gated:
        each.step_gate.open()
