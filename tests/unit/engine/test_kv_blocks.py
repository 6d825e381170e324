"""Blocks of KV memory: who holds them, who finds them again, and that none is ever lost or lent twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.engine.kv_blocks import KvBlocks, SequenceBlocks
from shared.errors import KvExhausted

BLOCK = 4


def blocks_of_prompt(memory: KvBlocks, ids: list[int], capacity: int | None = None, salt: str = "") -> SequenceBlocks:
    return memory.open(ids, capacity or len(ids), salt)


def left_behind(memory: KvBlocks, ids: list[int], salt: str = "") -> tuple[int, ...]:
    """A sequence of `ids` came, was filled, and went: the blocks it had."""
    held = blocks_of_prompt(memory, ids, salt=salt)
    memory.fill(held, ids, len(ids))
    memory.close(held)
    return held.numbers


@pytest.fixture
def memory() -> KvBlocks:
    return KvBlocks(8, BLOCK, prefixes=True)


def test_a_prompt_finds_the_whole_blocks_of_its_beginning(memory: KvBlocks) -> None:
    had = left_behind(memory, list(range(10)))
    held = blocks_of_prompt(memory, [*range(10), 99, 98, 97])
    assert held.cached_tokens == 8
    assert held.numbers[:2] == had[:2]


def test_at_least_one_token_is_left_to_compute(memory: KvBlocks) -> None:
    left_behind(memory, list(range(8)))
    assert blocks_of_prompt(memory, list(range(8))).cached_tokens == 4
    assert blocks_of_prompt(memory, list(range(9))).cached_tokens == 8


def test_a_different_token_ends_what_is_shared(memory: KvBlocks) -> None:
    left_behind(memory, list(range(12)))
    assert blocks_of_prompt(memory, [0, 1, 2, 3, 4, 5, 66, 7, 8, 9, 10, 11, 12]).cached_tokens == 4


def test_the_same_block_behind_another_beginning_is_another(memory: KvBlocks) -> None:
    left_behind(memory, [1, 1, 1, 1, 2, 2, 2, 2, 0])
    assert blocks_of_prompt(memory, [2, 2, 2, 2, 0]).cached_tokens == 0


def test_salts_do_not_share(memory: KvBlocks) -> None:
    left_behind(memory, list(range(9)), salt="one tenant")
    assert blocks_of_prompt(memory, list(range(9)), salt="another").cached_tokens == 0
    assert blocks_of_prompt(memory, list(range(9)), salt="one tenant").cached_tokens == 8


def test_what_is_held_is_shared_while_it_is_held(memory: KvBlocks) -> None:
    first = blocks_of_prompt(memory, list(range(9)))
    memory.fill(first, list(range(9)), 8)
    second = blocks_of_prompt(memory, list(range(9)))
    assert second.numbers[:2] == first.numbers[:2]
    assert memory.free == 8 - 4
    memory.close(first)
    assert memory.free == 8 - 3
    memory.close(second)
    assert memory.free == 8


def test_what_is_not_filled_is_not_found(memory: KvBlocks) -> None:
    first = blocks_of_prompt(memory, list(range(9)))
    memory.fill(first, list(range(9)), 7)
    assert blocks_of_prompt(memory, list(range(9))).cached_tokens == 4


def test_a_sequence_is_filled_little_by_little(memory: KvBlocks) -> None:
    ids = list(range(17))
    first = blocks_of_prompt(memory, ids)
    for tokens in range(18):
        memory.fill(first, ids, tokens)
    memory.close(first)
    assert blocks_of_prompt(memory, ids).cached_tokens == 16


def test_kept_blocks_are_free_and_are_taken_when_room_is_needed(memory: KvBlocks) -> None:
    left_behind(memory, list(range(16)))
    assert (memory.free, memory.kept) == (8, 4)
    other = memory.open([], 8 * BLOCK, "")
    assert (memory.free, memory.kept) == (0, 0)
    memory.close(other)
    assert blocks_of_prompt(memory, list(range(16))).cached_tokens == 0


def test_the_end_of_the_oldest_prompt_goes_first(memory: KvBlocks) -> None:
    left_behind(memory, list(range(16)))
    left_behind(memory, list(range(100, 116)))
    memory.close(memory.open([], BLOCK, ""))
    for ids, cached_tokens in (([*range(100, 116), 0], 16), ([*range(16), 0], 12)):
        held = blocks_of_prompt(memory, ids, capacity=16)
        assert held.cached_tokens == cached_tokens
        memory.close(held)


def test_what_was_found_is_not_given_away_as_the_rest_of_the_same_sequence() -> None:
    memory = KvBlocks(3, BLOCK, prefixes=True)
    left_behind(memory, list(range(12)))
    held = memory.open(list(range(12)), 12, "")
    assert held.cached_tokens == 8
    assert len(set(held.numbers)) == 3


def test_a_sequence_without_room_holds_nothing_and_what_it_found_is_still_there() -> None:
    memory = KvBlocks(3, BLOCK, prefixes=True)
    left_behind(memory, list(range(9)))
    with pytest.raises(KvExhausted):
        memory.open(list(range(9)), 13, "")
    assert memory.free == 3
    assert memory.open(list(range(9)), 9, "").cached_tokens == 8


def test_without_prefixes_nothing_is_found() -> None:
    memory = KvBlocks(8, BLOCK, prefixes=False)
    left_behind(memory, list(range(9)))
    assert memory.kept == 0
    assert blocks_of_prompt(memory, list(range(9))).cached_tokens == 0


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=20)
STEPS = st.lists(st.tuples(st.sampled_from(["open", "fill", "close"]), PROMPTS, st.integers(0, 99)), max_size=60)


@given(STEPS)
def test_a_block_holds_what_its_holders_believe(steps: list[tuple[str, list[int], int]]) -> None:
    """`content` is what would be in memory: written by whoever fills, never where another holder has it already."""
    memory = KvBlocks(8, BLOCK, prefixes=True)
    content: dict[int, tuple[int, ...]] = {}
    held: list[tuple[SequenceBlocks, list[int]]] = []
    for action, ids, choice in steps:
        if action == "open":
            try:
                blocks = memory.open(ids, len(ids) + choice % 5, "")
            except KvExhausted:
                continue
            for index in range(blocks.cached_tokens // BLOCK):
                assert content[blocks.numbers[index]] == tuple(ids[: (index + 1) * BLOCK])
            _write(content, blocks, ids)
            held.append((blocks, ids))
        elif held:
            blocks, known = held[choice % len(held)]
            memory.fill(blocks, known, len(known))
            if action == "close":
                memory.close(blocks)
                held.pop(choice % len(held))
        _check_apart(memory, held)
    for blocks, _ in held:
        memory.close(blocks)
    assert memory.free == memory.count


def _write(content: dict[int, tuple[int, ...]], blocks: SequenceBlocks, ids: list[int]) -> None:
    for index in range(blocks.cached_tokens // BLOCK, len(blocks.numbers)):
        content[blocks.numbers[index]] = tuple(ids[: (index + 1) * BLOCK])


def _check_apart(memory: KvBlocks, held: list[tuple[SequenceBlocks, list[int]]]) -> None:
    """What a sequence writes to is its own; only beginnings that are alike are shared."""
    owner: dict[int, tuple[int, ...]] = {}
    for blocks, ids in held:
        for index, number in enumerate(blocks.numbers):
            there = tuple(ids[: (index + 1) * BLOCK])
            if number in owner:
                assert owner[number] == there
                assert len(there) == (index + 1) * BLOCK
            owner[number] = there
    assert memory.free == memory.count - len(owner)
