"""Full workers, full queues, missing services: requests wait, go elsewhere, or get a typed error at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.errors import ContextExceeded, InvalidRequest, Overloaded, Unavailable
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import Fleet, colocated, eventually, token_ids
from .prompts import prompt


async def test_a_full_decode_worker_is_passed_over(make_fleet: MakeFleet, clients: Tasks):
    engines = [GatedEngine(kv_tokens=120), GatedEngine(kv_tokens=120)]
    ready = iter(engines)
    fleet = await make_fleet(make_decode=lambda: next(ready), decodes=2)
    for gated in engines:
        gated.step_gate.shut()
    both = [clients.start(fleet.generate(prompt(60), 50), name="client") for _ in range(2)]
    await asyncio.gather(*(gated.step_gate.reached.wait() for gated in engines))
    for gated in engines:
        gated.step_gate.open()
    workers = {(await client)[-1].timings.decode_worker for client in both}
    assert workers == {"d0", "d1"}


@pytest.mark.parametrize("batch_limit", [1, 64], ids=["for a seat", "for memory"])
async def test_what_finds_no_room_waits_and_then_runs(make_fleet: MakeFleet, clients: Tasks, batch_limit: int):
    decode = GatedEngine(kv_tokens=120 if batch_limit > 1 else 16384)
    fleet = await make_fleet(make_decode=lambda: decode, batch_limit=batch_limit)
    decode.step_gate.shut()
    first = clients.start(fleet.generate(prompt(60), 50), name="first")
    await decode.step_gate.reached.wait()
    second = clients.start(fleet.generate(prompt(70), 50), name="second")
    await eventually(lambda: fleet.schedulers["s0"]._rooms.inside == 1)
    assert not second.done()
    decode.step_gate.open()
    for client, length in ((first, 60), (second, 70)):
        assert token_ids(await client) == colocated(engine(), prompt(length), 50)[0]


async def test_many_more_sessions_than_fit_all_run(make_fleet: MakeFleet):
    fleet = await make_fleet(
        make_prefill=lambda: engine(kv_tokens=150), make_decode=lambda: engine(kv_tokens=150), queue_limit=100
    )
    answers = await asyncio.gather(*(fleet.generate(prompt(40 + n), 10) for n in range(40)))
    for n, deltas in enumerate(answers):
        assert token_ids(deltas) == colocated(engine(), prompt(40 + n), 10)[0]


async def test_a_full_queue_refuses_and_says_when_to_come_again(make_fleet: MakeFleet, clients: Tasks):
    decode = GatedEngine()
    fleet = await make_fleet(make_decode=lambda: decode, batch_limit=1, queue_limit=1)
    decode.step_gate.shut()
    held = [clients.start(fleet.generate(prompt(10), 5), name="held")]
    await decode.step_gate.reached.wait()
    held.append(clients.start(fleet.generate(prompt(10), 5), name="waiting"))
    await eventually(lambda: fleet.schedulers["s0"]._rooms.inside == 1)
    with pytest.raises(Overloaded) as refused:
        await fleet.generate(prompt(10), 5)
    assert refused.value.retry_after_ms
    decode.step_gate.open()
    await asyncio.gather(*held)


async def test_a_full_prefill_queue_sends_to_the_other_worker(make_fleet: MakeFleet, clients: Tasks):
    engines = [GatedEngine(), GatedEngine()]
    ready = iter(engines)
    fleet = await make_fleet(make_prefill=lambda: next(ready), prefills=2, queue_limit_tokens=100)
    for gated in engines:
        gated.prefill_gate.shut()
    asked = [clients.start(fleet.generate(prompt(90), 5), name="client") for _ in range(3)]
    await asyncio.gather(*(gated.prefill_gate.reached.wait() for gated in engines))
    await eventually(lambda: fleet.schedulers["s0"]._rooms.inside == 1)
    for gated in engines:
        gated.prefill_gate.open()
    assert {(await client)[-1].timings.prefill_worker for client in asked} == {"p0", "p1"}


@pytest.mark.parametrize("missing", ["prefills", "decodes"])
async def test_without_a_worker_of_a_phase_the_answer_is_unavailable_at_once(make_fleet: MakeFleet, missing: str):
    fleet = await make_fleet()
    await fleet.stop_worker("p0" if missing == "prefills" else "d0")
    started_s = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await fleet.generate(prompt(10))
    assert refused.value.retry_after_ms
    assert time.monotonic() - started_s < 1


async def test_without_a_scheduler_the_answer_is_unavailable_at_once(fleet: Fleet):
    await fleet.stop_scheduler("s0")
    with pytest.raises(Unavailable):
        await fleet.generate(prompt(10))


async def test_a_session_that_no_decode_can_hold_is_a_clear_error(make_fleet: MakeFleet):
    fleet = await make_fleet(make_decode=lambda: engine(kv_tokens=100))
    with pytest.raises(ContextExceeded, match="101"):
        await fleet.generate(prompt(51), 50)


async def test_a_prompt_that_no_prefill_can_hold_is_a_clear_error(make_fleet: MakeFleet):
    fleet = await make_fleet(make_prefill=lambda: engine(kv_tokens=100))
    with pytest.raises(ContextExceeded, match="101"):
        await fleet.generate(prompt(101), 5)
    await fleet.at_rest(within_s=1)


async def test_a_session_beyond_the_context_is_a_clear_error(fleet: Fleet):
    with pytest.raises(ContextExceeded):
        await fleet.generate(prompt(100), 4000)


async def test_a_token_outside_the_vocabulary_is_a_clear_error(fleet: Fleet):
    with pytest.raises(InvalidRequest):
        await fleet.generate([1, 2, 256])
