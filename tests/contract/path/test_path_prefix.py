"""Prompts that begin alike: what is computed and sent once, and the tokens that must not change for it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from services.gateway.generation import Delta, Timings
from services.scheduler.fleet import Fleet as SchedulerFleet
from shared.bus.connection import Bus

from .conftest import MakeFleet
from .engines import GatedEngine, engine, prefix_engine
from .fleet import Fleet, colocated, eventually, token_ids
from .prompts import prompt
from .reports import handoff_reports

BLOCK = 16
TOKEN_BYTES = engine().spec.layout.token_bytes


@pytest.fixture
async def caching(make_fleet: MakeFleet) -> Fleet:
    return await make_fleet(make_prefill=prefix_engine, make_decode=prefix_engine)


def timings_of(deltas: list[Delta]) -> Timings:
    timings = deltas[-1].timings
    assert timings is not None
    return timings


async def test_every_turn_of_a_chat_computes_and_sends_only_what_is_new(caching: Fleet):
    """Decode has the answers too, so that less is sent than computed."""
    conversation = prompt(200)
    known_to_decode = known_to_prefill = 0
    for turn in range(4):
        deltas = await caching.generate(conversation, 20)
        answer, _ = colocated(engine(), conversation, 20)
        assert token_ids(deltas) == answer
        timings = timings_of(deltas)
        assert timings.cached_tokens == known_to_prefill
        assert timings.kv_bytes == (len(conversation) - known_to_decode) * TOKEN_BYTES
        known_to_prefill = len(conversation) // BLOCK * BLOCK
        known_to_decode = (len(conversation) + len(answer) - 1) // BLOCK * BLOCK
        conversation = [*conversation, *answer, *prompt(30, salt=turn)]


async def test_the_same_prompt_again_is_computed_from_its_last_block(caching: Fleet):
    first = await caching.generate(prompt(160), 8)
    again = await caching.generate(prompt(160), 8)
    assert token_ids(first) == token_ids(again) == colocated(engine(), prompt(160), 8)[0]
    assert timings_of(again).cached_tokens == 144
    assert timings_of(again).kv_bytes == BLOCK * TOKEN_BYTES


async def test_many_prompts_of_one_beginning_at_once(caching: Fleet):
    beginning = prompt(100)
    prompts = [[*beginning, *prompt(1 + 7 * salt, salt)] for salt in range(20)]
    answers = await asyncio.gather(*(caching.generate(one, 10) for one in prompts))
    for one, deltas in zip(prompts, answers, strict=True):
        assert token_ids(deltas) == colocated(engine(), one, 10)[0]


async def test_salts_share_nothing(caching: Fleet):
    for salt in ("one", "another"):
        request = msgspec.structs.replace(caching.generating(prompt(160), 8), cache_salt=salt)
        async with caching.sessions.generate(request) as generation:
            deltas = [delta async for delta in generation]
        assert timings_of(deltas).cached_tokens == 0
        assert timings_of(deltas).kv_bytes == 160 * TOKEN_BYTES


async def test_what_only_prefill_has_is_sent_from_its_cache(make_fleet: MakeFleet, outsider: Bus):
    """At once, and not only when decode asks for what is missing."""
    fleet = await make_fleet(make_prefill=prefix_engine, make_decode=engine)
    heard = await handoff_reports(outsider)
    await fleet.generate(prompt(160), 8)
    again = await fleet.generate(prompt(170), 8)
    assert token_ids(again) == colocated(engine(), prompt(170), 8)[0]
    assert timings_of(again).cached_tokens == 160
    assert timings_of(again).kv_bytes == 170 * TOKEN_BYTES
    await eventually(lambda: len(heard) == 4)
    assert [report.resent_chunks for report in heard] == [0] * 4


async def test_what_only_decode_has_is_computed_and_not_sent(make_fleet: MakeFleet):
    fleet = await make_fleet(make_prefill=engine, make_decode=prefix_engine)
    await fleet.generate(prompt(160), 8)
    again = await fleet.generate(prompt(170), 8)
    assert token_ids(again) == colocated(engine(), prompt(170), 8)[0]
    assert timings_of(again).cached_tokens == 0
    assert timings_of(again).kv_bytes == 10 * TOKEN_BYTES


async def test_a_cancelled_session_leaves_only_what_was_filled(make_fleet: MakeFleet):
    gated = GatedEngine(prefix_cache=True)
    fleet = await make_fleet(make_prefill=lambda: gated, make_decode=prefix_engine, chunk_tokens=32)
    gated.prefill_gate.shut()
    async with fleet.sessions.generate(fleet.generating(prompt(160), 8)) as generation:
        asking = asyncio.ensure_future(anext(aiter(generation)))
        await gated.prefill_gate.reached.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    gated.prefill_gate.open()
    await fleet.at_rest()
    again = await fleet.generate(prompt(160), 8)
    assert token_ids(again) == colocated(engine(), prompt(160), 8)[0]
    assert timings_of(again).kv_bytes == 160 * TOKEN_BYTES


async def test_memory_that_is_needed_is_taken_from_what_is_kept(make_fleet: MakeFleet):
    fleet = await make_fleet(
        make_prefill=lambda: prefix_engine(kv_tokens=320), make_decode=lambda: prefix_engine(kv_tokens=320)
    )
    for salt in range(6):
        deltas = await fleet.generate(prompt(200, salt), 8)
        assert token_ids(deltas) == colocated(engine(), prompt(200, salt), 8)[0]


def idle(fleet: SchedulerFleet) -> bool:
    """Whether the scheduler has heard that all it has placed is done."""
    return not fleet._given.all() and not any(beat.sessions or beat.queued_tokens for beat in fleet.workers())


async def test_turns_of_several_chats_go_back_to_their_workers(make_fleet: MakeFleet):
    fleet = await make_fleet(prefills=2, decodes=2, make_prefill=prefix_engine, make_decode=prefix_engine)
    scheduler = fleet.schedulers["s0"]
    chats = [prompt(200, salt) for salt in range(4)]
    seen: list[set[tuple[str | None, str | None]]] = [set() for _ in chats]
    for _turn in range(3):
        for index, chat in enumerate(chats):
            await eventually(lambda: idle(scheduler._fleet))
            deltas = await fleet.generate(chat, 10)
            timings = timings_of(deltas)
            seen[index].add((timings.prefill_worker, timings.decode_worker))
            chats[index] = [*chat, *token_ids(deltas), *prompt(20, salt=9)]
    assert all(len(pairs) == 1 for pairs in seen)


async def test_a_session_that_moves_finds_its_beginning(make_fleet: MakeFleet):
    """Prompt and emitted tokens are prefilled again, from what prefill has kept of the prompt."""
    gated = [GatedEngine(prefix_cache=True) for _ in range(2)]
    ready = iter(gated)
    for decode in gated:
        decode.hold_at_step = 5
    fleet = await make_fleet(make_prefill=prefix_engine, make_decode=lambda: next(ready), decodes=2)
    generating = asyncio.ensure_future(fleet.generate(prompt(160), 40))
    await eventually(lambda: any(decode.step_gate.held for decode in gated))
    lost = next(number for number, decode in enumerate(gated) if decode.step_gate.held)
    gated[1 - lost].hold_at_step = None
    await fleet.lose_worker(f"d{lost}")
    deltas = await generating
    gated[lost].step_gate.open()
    assert token_ids(deltas) == colocated(engine(), prompt(160), 40)[0]
    assert timings_of(deltas).cached_tokens == 160
