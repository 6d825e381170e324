"""The KV arena: all blocks of a sequence or nothing, and everything back at rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kv_views import kv_of

from shared.core import KvLayout
from shared.engine.kv_memory import BLOCK_TOKENS, KvMemory, KvSpace
from shared.errors import ConfigError, KvExhausted

LAYOUT = KvLayout(layers=2, kv_heads=3, head_dim=4, dtype="bfloat16")
BLOCK_BYTES = BLOCK_TOKENS * LAYOUT.token_bytes


def memory(blocks: int) -> KvMemory:
    return KvMemory(LAYOUT, blocks * BLOCK_BYTES + 7, torch.device("cpu"))


def test_a_region_has_room_for_whole_blocks() -> None:
    space = memory(4).reserve(BLOCK_TOKENS + 1)
    assert kv_of(space).shape == (2, 2, 3, 2 * BLOCK_TOKENS, 4)
    assert space.capacity == 2 * BLOCK_TOKENS


def test_the_budget_is_counted_in_blocks() -> None:
    arena = memory(4)
    assert arena.usage.total_bytes == arena.usage.free_bytes == 4 * BLOCK_BYTES
    arena.reserve(3 * BLOCK_TOKENS)
    assert arena.usage.free_bytes == BLOCK_BYTES


def test_a_sequence_needs_no_run_of_blocks() -> None:
    arena = memory(4)
    spaces = [arena.reserve(1) for _ in range(4)]
    arena.release(spaces[0])
    arena.release(spaces[2])
    space = arena.reserve(2 * BLOCK_TOKENS)
    assert sorted(space.numbers) == sorted(spaces[0].numbers + spaces[2].numbers)


def test_addresses_are_where_the_blocks_begin() -> None:
    arena = memory(4)
    arena.reserve(BLOCK_TOKENS)
    space = arena.reserve(2 * BLOCK_TOKENS)
    assert space.addresses.tolist() == [arena.arena[0, 0, number].data_ptr() for number in space.numbers]
    assert space.table_address == space.addresses.ctypes.data


def test_exhausted_memory_is_refused_and_nothing_is_held() -> None:
    arena = memory(2)
    arena.reserve(BLOCK_TOKENS)
    before = arena.usage
    with pytest.raises(KvExhausted):
        arena.reserve(BLOCK_TOKENS + 1)
    assert arena.usage == before


def test_memory_without_a_block_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(ConfigError):
        memory(0)


@given(st.lists(st.one_of(st.integers(1, 300), st.none()), max_size=40), st.randoms(use_true_random=False))
def test_spaces_never_overlap_and_all_come_back(requests: list[int | None], rng: object) -> None:
    arena = memory(8)
    held: list[KvSpace] = []
    for request in requests:
        if request is None and held:
            arena.release(held.pop(rng.randrange(len(held))))  # type: ignore[attr-defined]
        elif request is not None:
            try:
                held.append(arena.reserve(request))
            except KvExhausted:
                continue
        taken = [block for space in held for block in space.numbers]
        assert len(taken) == len(set(taken))
        assert arena.usage.free_bytes == (8 - len(taken)) * BLOCK_BYTES
    for space in held:
        arena.release(space)
    assert arena.usage.free_bytes == arena.usage.total_bytes
    assert len(arena.reserve(8 * BLOCK_TOKENS).numbers) == 8
