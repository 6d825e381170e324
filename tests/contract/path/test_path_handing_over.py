"""A service told to stop, with more to do than time: its sessions go on elsewhere, and that counts as no failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared.engine.fake import FakeEngine
from shared.errors import Draining, Unavailable
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import Fleet, colocated, eventually, token_ids
from .prompts import prompt

STREAM_TOKENS = 400


def slow() -> Callable[[], FakeEngine]:
    return lambda: engine(step_s=0.001)


async def whole(fleet: Fleet, prompt_tokens: int) -> bool:
    deltas = await fleet.generate(prompt(prompt_tokens), STREAM_TOKENS)
    return token_ids(deltas) == colocated(engine(), prompt(prompt_tokens), STREAM_TOKENS)[0]


async def test_streams_of_a_decode_move_though_they_may_fail_but_once(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=slow(), decodes=2, attempts=1)
    streams = [clients.start(whole(fleet, 20 + number), name="stream") for number in range(6)]
    await eventually(lambda: fleet.sessions_on("d0") >= 3 and fleet.sessions_on("d1") >= 3)
    await fleet.workers["d0"].hand_over()
    assert not fleet.sessions_on("d0")
    assert all(await asyncio.gather(*streams))


async def test_prompts_of_a_prefill_move_though_they_may_fail_but_once(make_fleet: MakeFleet, clients: Tasks):
    engines = [GatedEngine(), engine()]
    ready = iter(engines)
    fleet = await make_fleet(make_prefill=lambda: next(ready), prefills=2, attempts=1)
    gate = engines[0].prefill_gate
    gate.shut()
    streams = [clients.start(whole(fleet, 20 + number), name="stream") for number in range(4)]
    await gate.reached.wait()
    handing_over = clients.start(fleet.workers["p0"].hand_over(), name="hand over")
    await eventually(lambda: len(fleet.sessions) < 4 or not fleet.sessions_on("p1"))
    gate.open()
    await handing_over
    assert all(await asyncio.gather(*streams))


@pytest.mark.parametrize("stage", ["streaming", "waiting", "pausing"])
async def test_a_gateway_ends_its_streams_with_an_error_that_says_to_ask_again(
    make_fleet: MakeFleet, clients: Tasks, stage: str
):
    fleet = await make_fleet(make_decode=slow(), batch_limit=1)
    stream = clients.start(fleet.generate(prompt(20), 4000 - 20), name="stream")
    await eventually(lambda: fleet.sessions_on("d0") == 1)
    if stage == "waiting":
        stream = clients.start(fleet.generate(prompt(30), 10), name="waiting")
        await eventually(lambda: fleet.schedulers["s0"]._rooms.inside == 1)
    if stage == "pausing":
        await fleet.stop_worker("d0")
        await eventually(lambda: not any(beat.worker == "d0" for beat in fleet.alive()))
        await asyncio.sleep(0)
    fleet.sessions.end_all(Draining("the gateway stops", retry_after_ms=1000))
    with pytest.raises((Draining, Unavailable)) as ended:
        async with asyncio.timeout(2):
            await stream
    assert ended.value.retry_after_ms
    await fleet.at_rest()


async def test_requests_that_wait_at_a_scheduler_go_to_another(make_fleet: MakeFleet, clients: Tasks):
    fleet = await make_fleet(make_decode=slow(), batch_limit=1)
    streams = [clients.start(whole(fleet, 20 + number), name="stream") for number in range(3)]
    await eventually(lambda: fleet.schedulers["s0"]._rooms.inside == 2)
    await fleet.start_scheduler("s1")
    s0 = fleet.schedulers["s0"]
    draining = clients.start(s0.drain(), name="drain")
    await eventually(lambda: s0._state == "draining")
    await s0.hand_over()
    await draining
    assert all(await asyncio.gather(*streams))
