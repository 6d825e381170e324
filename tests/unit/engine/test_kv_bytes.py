"""KV regions as bytes: order, exact values, and no neighbour touched."""

from __future__ import annotations

import pytest
import torch
from kv_views import fill_kv, kv_of

from shared.core import KvLayout, KvRegion
from shared.engine import kv_bytes
from shared.engine.kv_memory import KvMemory, KvSpace

LAYOUT = KvLayout(layers=3, kv_heads=2, head_dim=4, dtype="bfloat16")
REGION = KvRegion(1, 3, 60, 135)
"""Over three blocks."""


@pytest.fixture
def space() -> KvSpace:
    memory = KvMemory(LAYOUT, 1 << 20, torch.device("cpu"))
    first, middle = memory.reserve(64), memory.reserve(64)
    memory.release(first)
    space = memory.reserve(180)
    memory.release(middle)
    memory.arena.copy_(torch.randn(memory.arena.shape))
    return space


def test_bytes_are_layer_kv_head_token_dim(space: KvSpace) -> None:
    payload = kv_bytes.read(space, REGION)
    expected = kv_of(space)[1:3, :, :, 60:135].contiguous().view(torch.uint8).flatten().tolist()
    assert payload.nbytes == REGION.size_bytes(LAYOUT)
    assert list(payload) == expected


def test_read_bytes_do_not_change_with_the_memory(space: KvSpace) -> None:
    payload = kv_bytes.read(space, REGION)
    before = bytes(payload)
    space.arena.zero_()
    assert bytes(payload) == before


def test_written_region_reads_the_same_and_nothing_else_changes(space: KvSpace) -> None:
    payload = bytes(range(256)) * (REGION.size_bytes(LAYOUT) // 256 + 1)
    payload = payload[: REGION.size_bytes(LAYOUT)]
    before, arena = kv_of(space), space.arena.clone()
    kv_bytes.write(space, REGION, memoryview(payload))
    assert bytes(kv_bytes.read(space, REGION)) == payload
    before[1:3, :, :, 60:135] = kv_of(space)[1:3, :, :, 60:135]
    assert torch.equal(before.view(torch.int16), kv_of(space).view(torch.int16))
    fill_kv(space, before)
    arena[:, :, list(space.numbers)] = space.arena[:, :, list(space.numbers)]
    assert torch.equal(arena.view(torch.int16), space.arena.view(torch.int16))


def test_payload_of_another_size_is_refused(space: KvSpace) -> None:
    with pytest.raises(ValueError, match="reshape"):
        kv_bytes.write(space, REGION, memoryview(bytes(8)))
