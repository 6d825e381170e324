"""What a scheduler remembers of who has had which prompt, and how the fleet weighs it."""

from __future__ import annotations

import msgspec
from scheduler_words import MODEL, ScriptedWorkers, decode_beat, fleet_of, prefill_beat, request

from services.scheduler.affinity import BLOCK_TOKENS, HOLDERS, PrefixAffinity, WorkerStart, beginnings, start_of
from services.scheduler.placer import Placer
from shared.core import Role
from shared.engine import kv_memory
from shared.protocol.wire import pack_ids

ONE = WorkerStart(Role.PREFILL, "p0", "boot")
OTHER = WorkerStart(Role.PREFILL, "p1", "boot")
LONG = list(range(10 * BLOCK_TOKENS + 1))


def names(tokens: int, salt: str = "") -> list[bytes]:
    return beginnings(pack_ids(LONG[:tokens]), salt)


def test_whole_blocks_have_names_but_never_the_last_token():
    assert [len(names(tokens)) for tokens in (1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 2 * BLOCK_TOKENS + 1)] == [0, 0, 1, 2]


def test_blocks_are_as_long_as_those_that_engines_keep():
    assert BLOCK_TOKENS == kv_memory.BLOCK_TOKENS


def test_another_salt_has_other_names():
    assert not set(names(len(LONG))) & set(names(len(LONG), "tenant"))


def test_what_was_placed_is_cached_up_to_where_it_differs():
    affinity = PrefixAffinity()
    affinity.note(names(3 * BLOCK_TOKENS + 1), ONE)
    affinity.note(names(1 * BLOCK_TOKENS + 1), OTHER)
    assert affinity.cached(names(len(LONG))) == {ONE: 3 * BLOCK_TOKENS, OTHER: BLOCK_TOKENS}
    assert affinity.cached(names(2 * BLOCK_TOKENS + 1)) == {ONE: 2 * BLOCK_TOKENS, OTHER: BLOCK_TOKENS}
    assert affinity.cached(names(5)) == {}


def test_a_new_start_of_a_worker_has_nothing():
    affinity = PrefixAffinity()
    affinity.note(names(len(LONG)), ONE)
    again = WorkerStart(ONE.role, ONE.worker, "another boot")
    affinity.note(names(BLOCK_TOKENS + 1), again)
    assert affinity.cached(names(len(LONG)))[again] == BLOCK_TOKENS
    assert ONE not in affinity.cached(names(len(LONG)))


def test_memory_is_bounded_and_the_deepest_blocks_go_first():
    affinity = PrefixAffinity(remembered=6)
    affinity.note(names(4 * BLOCK_TOKENS + 1), ONE)
    affinity.note(beginnings(pack_ids(range(5000, 5000 + 4 * BLOCK_TOKENS + 1)), ""), OTHER)
    assert len(affinity) == 6
    assert affinity.cached(names(len(LONG))) == {ONE: 2 * BLOCK_TOKENS}


def test_workers_that_come_and_go_under_new_names_do_not_pile_up():
    affinity = PrefixAffinity()
    lives = [WorkerStart(Role.PREFILL, f"p{number}", "boot") for number in range(2 * HOLDERS)]
    affinity.note(names(len(LONG)), ONE)
    for life in lives:
        affinity.note(names(BLOCK_TOKENS + 1), ONE)
        affinity.note(names(BLOCK_TOKENS + 1), life)
    assert set(affinity.cached(names(BLOCK_TOKENS + 1))) == {ONE, *lives[-HOLDERS + 1 :]}
    assert affinity.cached(names(len(LONG)))[ONE] == len(LONG) - 1


def test_the_prefill_that_has_least_left_to_compute_comes_first():
    beats = [prefill_beat("p0", queued_tokens=100), prefill_beat("p1"), prefill_beat("p2", queued_tokens=500)]
    fleet = fleet_of(*beats)
    cached = {start_of(beats[0]): 192, start_of(beats[2]): 192}
    assert [beat.worker for beat in fleet.prefills(MODEL, 200, None, cached)] == ["p0", "p1", "p2"]


def test_of_equally_loaded_decodes_the_one_that_has_most_comes_first_and_load_counts_more():
    beats = [decode_beat("d0"), decode_beat("d1"), decode_beat("d2", sessions=1)]
    cached = {start_of(beats[1]): 64, start_of(beats[2]): 640}
    assert [beat.worker for beat in fleet_of(*beats).decodes(MODEL, 1, cached)] == ["d1", "d0", "d2"]


async def test_the_next_turn_goes_where_the_last_one_was():
    """The other workers are idle as well, and come first by name."""
    workers = ScriptedWorkers()
    beats = [
        decode_beat("d0", kv_total_bytes=10_000, kv_free_bytes=10_000),
        decode_beat("d1", kv_total_bytes=10_000, kv_free_bytes=10_000),
        prefill_beat("p0"),
        prefill_beat("p1"),
    ]
    fleet = fleet_of(*beats)
    placer = Placer(fleet, workers)
    turns = [request(turn, prompt_ids=pack_ids(LONG[:tokens])) for turn, tokens in enumerate((300, 400, 400))]
    fleet.hear(decode_beat("d0", sessions=1, kv_total_bytes=10_000, kv_free_bytes=10_000))
    fleet.hear(prefill_beat("p0", queued_tokens=900))
    first = await placer.place(turns[0], 5000)
    for beat in beats:
        fleet.hear(msgspec.structs.replace(beat, number=2))
    second = await placer.place(turns[1], 5000)
    assert first == second
    assert second is not None
    assert (second.prefill, second.decode) == ("p1", "d1")
    assert {order.cache_salt for order in workers.runs} == {""}


async def test_what_is_cached_of_a_prompt_is_no_load():
    """A worker that has the beginning gets one prompt after the other before it has said anything of them."""
    workers = ScriptedWorkers()
    beats = [decode_beat("d0", kv_total_bytes=10_000, kv_free_bytes=10_000), prefill_beat("p0"), prefill_beat("p1")]
    fleet = fleet_of(*beats)
    placer = Placer(fleet, workers)
    await placer.place(request(0, prompt_ids=pack_ids(LONG[:300])), 5000)
    for beat in beats:
        fleet.hear(msgspec.structs.replace(beat, number=2))
    placements = [await placer.place(request(turn, prompt_ids=pack_ids(LONG[:300])), 5000) for turn in range(1, 4)]
    assert [placement.prefill for placement in placements if placement is not None] == ["p0"] * 3
