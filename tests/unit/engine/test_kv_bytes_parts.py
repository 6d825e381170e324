"""A region's bytes in parts are the bytes of the region, and long runs are not copied."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.core import KvLayout, KvRegion
from shared.engine import kv_bytes
from shared.engine.kv_memory import KvMemory, KvSpace

LAYOUT = KvLayout(layers=4, kv_heads=3, head_dim=64, dtype="bfloat16")
TOKENS = 192


def filled(dtype: str = "bfloat16") -> KvSpace:
    layout = KvLayout(layers=4, kv_heads=3, head_dim=64, dtype=dtype)
    memory = KvMemory(layout, 2 * TOKENS * layout.token_bytes, torch.device("cpu"))
    memory.reserve(10)
    memory.arena.copy_(torch.randn(memory.arena.shape, generator=torch.Generator().manual_seed(1)))
    return memory.reserve(TOKENS)


SPACE = filled()
RANGES = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, TOKENS - 1), st.integers(1, TOKENS))


@given(RANGES)
def test_parts_joined_are_the_region(numbers: tuple[int, int, int, int]) -> None:
    layer, layers, token, tokens = numbers
    region = KvRegion(layer, min(layer + layers, 4), token, min(token + tokens, TOKENS))
    parts = kv_bytes.parts(SPACE, region)
    assert b"".join(parts) == bytes(kv_bytes.read(SPACE, region))
    assert sum(map(len, parts)) == region.size_bytes(LAYOUT)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_long_runs_are_the_memory_itself(dtype: str) -> None:
    space = filled(dtype)
    parts = kv_bytes.parts(space, KvRegion(1, 2, 64, 64 + 128))
    assert len(parts) == 2 * 3 * 2
    assert all(len(part) >= kv_bytes.PART_BYTES for part in parts)
    space.arena.zero_()
    assert not any(any(part) for part in parts)


def test_short_runs_are_copied_into_one() -> None:
    space = filled()
    parts = kv_bytes.parts(space, KvRegion(0, 4, 0, 3))
    assert len(parts) == 1
    before = bytes(parts[0])
    space.arena.zero_()
    assert bytes(parts[0]) == before
