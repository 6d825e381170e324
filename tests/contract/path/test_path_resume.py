"""A resumable generation is broken off and taken up: here, elsewhere, by two at once; nothing twice, no gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from services.gateway.generation import Delta, GenerationRequest
from services.gateway.sessions.registry import KeepSettings
from shared.core import FinishReason, SamplingParams
from shared.errors import Cancelled, InvalidRequest, SessionNotFound, SessionTaken, Unavailable
from shared.protocol.to_client import Timings

from .conftest import MakeFleet
from .engines import engine
from .fleet import GREEDY, Fleet, colocated, eventually, token_ids
from .gateways import Gateway
from .prompts import prompt

pytestmark = pytest.mark.timeout(60)

TOKENS = 60
PROMPT = prompt(40)
MakeGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def slow(make_fleet: MakeFleet) -> Fleet:
    """Slow enough that a generation can be broken in its middle."""
    return await make_fleet(make_decode=lambda: engine(step_s=0.005), decodes=2)


@pytest.fixture
async def make_gateway(slow: Fleet) -> AsyncIterator[MakeGateway]:
    gateways: list[Gateway] = []

    async def make(name: str = "", **keep: float) -> Gateway:
        gateway = Gateway(slow, name or f"gateway-{len(gateways)}", KeepSettings(**{"interval_s": 0.05, **keep}))
        gateways.append(gateway)
        await gateway.start()
        return gateway

    yield make
    for gateway in gateways:
        if not gateway.bus._client.is_closed:
            await gateway.stop()


def resumable(
    fleet: Fleet, max_tokens: int = TOKENS, sampling: SamplingParams = GREEDY, stop: tuple[str, ...] = ()
) -> GenerationRequest:
    return msgspec.structs.replace(fleet.generating(PROMPT, max_tokens, sampling, stop), resumable=True)


async def begin(gateway: Gateway, request: GenerationRequest, tokens: int) -> tuple[str, list[Delta]]:
    """The session, and its deltas until there are so many tokens; then its client is gone."""
    deltas: list[Delta] = []
    async with gateway.sessions.generate(request) as generation:
        async for delta in generation:
            deltas.append(delta)
            if len(token_ids(deltas)) >= tokens:
                break
        return generation.id, deltas


async def rest(gateway: Gateway, session: str, had: list[Delta]) -> list[Delta]:
    """What is new to a client that has `had`."""
    resumed = await gateway.sessions.resume(session, len(token_ids(had)))
    async with resumed.running as generation:
        return [delta async for delta in generation if not delta.known]


async def to_the_end(deltas: AsyncIterator[Delta]) -> list[Delta]:
    return [delta async for delta in deltas]


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def undisturbed(fleet: Fleet, request: GenerationRequest) -> list[Delta]:
    """The same in one piece."""
    async with fleet.sessions.generate(msgspec.structs.replace(request, resumable=False)) as generation:
        return [delta async for delta in generation]


async def same_as_undisturbed(fleet: Fleet, request: GenerationRequest, deltas: list[Delta]) -> None:
    whole = await undisturbed(fleet, request)
    assert token_ids(deltas) == token_ids(whole)
    assert text_of(deltas) == text_of(whole)
    assert (deltas[-1].finish, deltas[-1].stop_match) == (whole[-1].finish, whole[-1].stop_match)
    assert [delta.finish for delta in deltas].count(None) == len(deltas) - 1


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(temperature=1.0, seed=7)], ids=["greedy", "seeded"])
@pytest.mark.parametrize("tokens", [1, 20, TOKENS - 1])
async def test_another_gateway_goes_on_when_the_first_is_dead(
    slow: Fleet, make_gateway: MakeGateway, sampling: SamplingParams, tokens: int
):
    first, second = await make_gateway(), await make_gateway()
    request = resumable(slow, sampling=sampling)
    session, had = await begin(first, request, tokens)
    await first.die()
    await same_as_undisturbed(slow, request, had + await rest(second, session, had))


async def test_tokens_the_journal_has_lost_are_computed_again(slow: Fleet, make_gateway: MakeGateway):
    first, second = await make_gateway(interval_s=30.0), await make_gateway()
    request = resumable(slow)
    session, had = await begin(first, request, 20)
    await first.die()
    await same_as_undisturbed(slow, request, had + await rest(second, session, had))


async def test_a_gateway_back_under_its_name_goes_on(slow: Fleet, make_gateway: MakeGateway):
    first = await make_gateway("same")
    request = resumable(slow)
    session, had = await begin(first, request, 20)
    await first.die()
    await same_as_undisturbed(slow, request, had + await rest(await make_gateway("same"), session, had))


async def test_a_client_that_comes_back_finds_its_session_running(slow: Fleet, make_gateway: MakeGateway):
    gateway = await make_gateway()
    request = resumable(slow)
    session, had = await begin(gateway, request, 10)
    assert len(gateway.sessions) == 1
    deltas = had + await rest(gateway, session, had)
    await same_as_undisturbed(slow, request, deltas)
    assert deltas[-1].timings is not None


async def test_nobody_comes_back_and_its_memory_is_free_but_it_can_be_resumed(slow: Fleet, make_gateway: MakeGateway):
    gateway = await make_gateway(grace_s=0.1)
    request = resumable(slow, 120)
    session, had = await begin(gateway, request, 10)
    await eventually(lambda: not gateway.sessions and not slow.leftovers())
    await same_as_undisturbed(slow, request, had + await rest(gateway, session, had))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_of_two_clients_the_newest_gets_the_rest(slow: Fleet, make_gateway: MakeGateway, elsewhere: bool):
    first = await make_gateway()
    second = await make_gateway() if elsewhere else first
    request = resumable(slow)
    had: list[Delta] = []
    async with first.sessions.generate(request) as generation:
        deltas = aiter(generation)
        had.append(await anext(deltas))
        newest = await rest(second, generation.id, had)
        with pytest.raises(SessionTaken):
            await to_the_end(deltas)
    await same_as_undisturbed(slow, request, had + newest)


async def test_many_gateways_at_once_agree_on_one(slow: Fleet, make_gateway: MakeGateway):
    first = await make_gateway()
    others = [await make_gateway() for _ in range(4)]
    request = resumable(slow)
    session, had = await begin(first, request, 10)
    await first.die()
    outcomes = await asyncio.gather(*(rest(gateway, session, had) for gateway in others), return_exceptions=True)
    whole = [outcome for outcome in outcomes if isinstance(outcome, list)]
    taken = [outcome for outcome in outcomes if isinstance(outcome, SessionTaken | Cancelled)]
    assert len(whole) + len(taken) == len(others), outcomes
    for deltas in whole:
        await same_as_undisturbed(slow, request, had + deltas)
    assert whole


async def test_what_has_ended_is_replayed_from_any_token(slow: Fleet, make_gateway: MakeGateway):
    first, second = await make_gateway(), await make_gateway()
    request = resumable(slow, sampling=SamplingParams(temperature=0.0, logprobs=1))
    session, deltas = await begin(first, request, TOKENS)
    for after in (0, 1, TOKENS - 1, TOKENS):
        had = deltas[:after]
        again = had + await rest(second, session, had)
        assert [token for delta in again for token in delta.tokens] == [
            token for delta in deltas for token in delta.tokens
        ]
        assert text_of(again) == text_of(deltas)
        assert again[-1].finish is FinishReason.LENGTH
        assert isinstance(again[-1].timings, Timings)


async def test_a_stop_string_across_the_break_is_found(slow: Fleet, make_gateway: MakeGateway):
    whole = text_of(await undisturbed(slow, resumable(slow)))
    stop = whole[24:27]
    request = resumable(slow, stop=(stop,))
    for tokens in (10, 20, 25):
        first, second = await make_gateway(), await make_gateway()
        session, had = await begin(first, request, tokens)
        await first.die()
        await same_as_undisturbed(slow, request, had + await rest(second, session, had))


async def test_a_stop_string_ends_a_session_that_nobody_reads(slow: Fleet, make_gateway: MakeGateway):
    whole = text_of(await undisturbed(slow, resumable(slow)))
    gateway = await make_gateway()
    request = resumable(slow, 4000, stop=(whole[24:27],))
    session, had = await begin(gateway, request, 5)
    await eventually(lambda: not gateway.sessions and not slow.leftovers())
    await same_as_undisturbed(slow, request, had + await rest(gateway, session, had))


async def test_a_client_that_cancels_leaves_nothing_to_run(slow: Fleet, make_gateway: MakeGateway):
    first, second = await make_gateway(), await make_gateway()
    async with first.sessions.generate(resumable(slow, 4000)) as generation:
        had = [await anext(aiter(generation))]
        generation.cancel()
    async with slow.freed_soon():
        pass
    await eventually(lambda: not first.sessions)
    assert (await rest(second, generation.id, had))[-1].finish is FinishReason.CANCELLED


async def test_any_gateway_can_end_a_session(slow: Fleet, make_gateway: MakeGateway):
    first, second = await make_gateway(), await make_gateway()
    session, had = await begin(first, resumable(slow, 4000), 5)
    await second.sessions.end(session)
    await eventually(lambda: not first.sessions and not slow.leftovers())
    assert (await rest(first, session, had))[-1].finish is FinishReason.CANCELLED


async def test_what_cannot_be_resumed_says_so(slow: Fleet, make_gateway: MakeGateway):
    gateway = await make_gateway()
    for unknown in ("0" * 32, "*", ">", "a.b", "", "0" * 31 + "G"):
        with pytest.raises(SessionNotFound):
            await gateway.sessions.resume(unknown, 0)
    session, _ = await begin(gateway, resumable(slow), 5)
    with pytest.raises(InvalidRequest):
        await gateway.sessions.resume(session, TOKENS + 1)


async def test_an_after_beyond_the_end_says_so(make_fleet: MakeFleet):
    fleet = await make_fleet(
        make_prefill=lambda: engine(eos_token_ids=(0,)), make_decode=lambda: engine(eos_token_ids=(0,))
    )
    gateway = Gateway(fleet, "gateway", KeepSettings(interval_s=0.05))
    await gateway.start()
    ids, _ = colocated(engine(), PROMPT, 200)
    request = msgspec.structs.replace(
        fleet.generating(PROMPT, 200, SamplingParams(temperature=0.0, stop_token_ids=(ids[10],))), resumable=True
    )
    session, deltas = await begin(gateway, request, 200)
    resumed = await gateway.sessions.resume(session, len(token_ids(deltas)) + 1)
    with pytest.raises(InvalidRequest, match="ends 1 tokens before"):
        async with resumed.running as generation:
            [delta async for delta in generation]
    await gateway.stop()


async def test_a_stopping_gateway_hands_its_sessions_over(slow: Fleet, make_gateway: MakeGateway):
    first, second = await make_gateway(interval_s=30.0), await make_gateway()
    request = resumable(slow)
    async with first.sessions.generate(request) as generation:
        deltas = aiter(generation)
        had = [await anext(deltas) for _ in range(10)]
        await first.stop()
        with pytest.raises(Unavailable):
            had += await to_the_end(deltas)
    await same_as_undisturbed(slow, request, had + await rest(second, generation.id, had))


async def test_a_drain_does_not_wait_for_those_who_may_come_back(slow: Fleet, make_gateway: MakeGateway):
    first, second = await make_gateway(), await make_gateway()
    request = resumable(slow, 150)
    session, had = await begin(first, request, 5)
    async with asyncio.timeout(2):
        await first.sessions.drain()
    await same_as_undisturbed(slow, request, had + await rest(second, session, had))


async def test_what_is_resumed_waits_for_room_as_what_is_moved_does(make_fleet: MakeFleet):
    fleet = await make_fleet(make_decode=lambda: engine(step_s=0.005), batch_limit=1, queue_limit=0)
    gateway = Gateway(fleet, "gateway", KeepSettings(interval_s=0.05, grace_s=0.0))
    await gateway.start()
    request = resumable(fleet)
    session, had = await begin(gateway, request, 10)
    await eventually(lambda: not gateway.sessions and not fleet.leftovers())
    async with asyncio.TaskGroup() as group, fleet.sessions.generate(fleet.generating(PROMPT, 4000)) as generation:
        await anext(aiter(generation))
        resumed = group.create_task(rest(gateway, session, had))
        await eventually(lambda: len(gateway.sessions) == 1)
        await asyncio.sleep(0.3)
        assert not resumed.done()
    await same_as_undisturbed(fleet, request, had + resumed.result())
    await gateway.stop()
