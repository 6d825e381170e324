"""The tokens of the whole path are those of one engine that does both phases."""

from __future__ import annotations

import asyncio

import prometheus_client
import pytest

from shared.core import FinishReason, Role, SamplingParams
from shared.runtime.stages import Stage

from .conftest import MakeFleet
from .engines import GatedEngine, engine
from .fleet import GREEDY, Fleet, colocated, token_ids
from .prompts import prompt

LENGTHS = (1, 2, 3, 31, 32, 33, 63, 64, 65, 100, 255, 256, 257, 500, 999, 1000)
SHAPES = {
    "one of each": {},
    "two of each": {"prefills": 2, "decodes": 2},
    "slices that do not divide, small chunks": {"chunk_tokens": 37, "chunk_bytes": 4096},
    "tiny chunks and a tiny window": {"chunk_tokens": 100, "chunk_bytes": 256, "window_bytes": 600},
    "a window smaller than a chunk": {"chunk_bytes": 4096, "window_bytes": 100},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "seeded"])
async def test_many_prompts_at_once_give_the_tokens_of_one_engine(
    make_fleet: MakeFleet, shape: dict[str, int], temperature: float
):
    fleet = await make_fleet(**shape)
    sampling = [SamplingParams(temperature=temperature, seed=seed) for seed in range(len(LENGTHS))]
    answers = await asyncio.gather(
        *(fleet.generate(prompt(length, length), 12, params) for length, params in zip(LENGTHS, sampling, strict=True))
    )
    for length, params, deltas in zip(LENGTHS, sampling, answers, strict=True):
        ids, finish = colocated(engine(), prompt(length, length), 12, params)
        assert token_ids(deltas) == ids, length
        assert deltas[-1].finish is finish


async def test_two_of_each_share_the_load(make_fleet: MakeFleet):
    fleet = await make_fleet(prefills=2, decodes=2)
    answers = await asyncio.gather(*(fleet.generate(prompt(200, salt)) for salt in range(8)))
    timings = [deltas[-1].timings for deltas in answers]
    assert {timing.prefill_worker for timing in timings if timing} == {"p0", "p1"}
    assert {timing.decode_worker for timing in timings if timing} == {"d0", "d1"}


async def test_a_seed_gives_other_tokens_than_another(fleet: Fleet):
    first, second = [
        token_ids(await fleet.generate(prompt(10), 8, SamplingParams(temperature=1.0, seed=seed))) for seed in (1, 2)
    ]
    assert first != second


async def test_log_probabilities_travel_with_every_token(fleet: Fleet):
    deltas = await fleet.generate(prompt(70), 5, SamplingParams(temperature=0.0, logprobs=2))
    logprobs = [token.logprob for delta in deltas for token in delta.tokens]
    assert len(logprobs) == 5
    for token_id, logprob in zip(token_ids(deltas), logprobs, strict=True):
        assert logprob is not None
        assert logprob.top == ((token_id, -0.5), ((token_id + 1) % 256, -1.5))


async def test_the_timeline_names_workers_and_bytes(fleet: Fleet):
    timings = (await fleet.generate(prompt(200), 4))[-1].timings
    assert timings is not None
    assert (timings.prefill_worker, timings.decode_worker) == ("p0", "d0")
    assert timings.kv_bytes == 200 * engine().spec.layout.token_bytes
    durations_ms = [getattr(timings, f"{name}_ms") for name in (*Stage, "handoff", "ttft", "itl")]
    assert all(0 <= duration_ms <= timings.total_ms for duration_ms in durations_ms)


async def test_every_service_counts_the_stages_it_measures(fleet: Fleet):
    """All services are in this process: each stage is seen once by the one who does it, and once by the gateway."""
    before = {stage: _observed(stage) for stage in Stage}
    await fleet.generate(prompt(200), 4)
    await fleet.at_rest()
    assert {stage: _observed(stage) - before[stage] for stage in Stage} == dict.fromkeys(Stage, 2)


def _observed(stage: Stage) -> float:
    labels = {"stage": stage.value}
    return prometheus_client.REGISTRY.get_sample_value("baton_stage_seconds_count", labels) or 0.0


async def test_one_token_needs_no_decode_work(make_fleet: MakeFleet):
    decode = GatedEngine()
    fleet = await make_fleet(make_decode=lambda: decode)
    async with fleet.freed_soon():
        deltas = await fleet.generate(prompt(100), 1)
    assert token_ids(deltas) == colocated(engine(), prompt(100), 1)[0]
    assert deltas[-1].finish is FinishReason.LENGTH
    assert deltas[-1].timings is not None
    assert deltas[-1].timings.decode_worker is None
    assert decode.steps == 0


@pytest.mark.parametrize("max_tokens", [1, 16])
async def test_an_end_of_sequence_as_first_token_needs_no_decode_work(make_fleet: MakeFleet, max_tokens: int):
    first = colocated(engine(), prompt(100), 1)[0][0]
    decode = GatedEngine(eos_token_ids=(first,))
    fleet = await make_fleet(make_prefill=lambda: engine(eos_token_ids=(first,)), make_decode=lambda: decode)
    async with fleet.freed_soon():
        deltas = await fleet.generate(prompt(100), max_tokens)
    assert token_ids(deltas) == [first]
    assert deltas[-1].finish is FinishReason.STOP
    assert decode.steps == 0


async def test_an_end_of_sequence_ends_the_answer(make_fleet: MakeFleet):
    ids, _ = colocated(engine(), prompt(50), 16)
    end = (ids[9],)
    fleet = await make_fleet(
        make_prefill=lambda: engine(eos_token_ids=end), make_decode=lambda: engine(eos_token_ids=end)
    )
    deltas = await fleet.generate(prompt(50), 16)
    assert token_ids(deltas) == ids[: ids.index(ids[9]) + 1]
    assert deltas[-1].finish is FinishReason.STOP


async def test_a_stop_string_ends_the_answer_and_its_workers(make_fleet: MakeFleet):
    decode = GatedEngine()
    fleet = await make_fleet(make_decode=lambda: decode)
    ids, _ = colocated(engine(), prompt(40), 400)
    stop = fleet.tokenizer.token_text(ids[20])
    cut = next(index for index, token_id in enumerate(ids) if fleet.tokenizer.token_text(token_id) == stop)
    async with fleet.freed_soon():
        deltas = await fleet.generate(prompt(40), 4000, stop=(stop,))
    assert token_ids(deltas) == ids[: cut + 1]
    assert deltas[-1].finish is FinishReason.STOP
    assert deltas[-1].stop_match == stop
    assert decode.steps < 4000


async def test_the_longest_session_that_fits_runs(make_fleet: MakeFleet):
    fleet = await make_fleet(make_prefill=lambda: engine(kv_tokens=100), make_decode=lambda: engine(kv_tokens=110))
    deltas = await fleet.generate(prompt(100), 10)
    assert token_ids(deltas) == colocated(engine(), prompt(100), 10, GREEDY)[0]
    assert [beat.kv_total_bytes // 64 for beat in fleet.alive() if beat.role is Role.DECODE] == [110]
