"""The words of the domain: sizes, regions, when a generation ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core import FinishReason, KvLayout, KvRegion, SamplingParams, blocks_of, finish_reason

LAYOUT = KvLayout(layers=30, kv_heads=3, head_dim=64, dtype="bfloat16")
EOS = (2, 7)


def test_a_token_of_the_default_model_takes_its_bytes() -> None:
    assert LAYOUT.token_layer_bytes == 2 * 3 * 64 * 2
    assert LAYOUT.token_bytes == 30 * LAYOUT.token_layer_bytes == 22.5 * 1024


@given(st.integers(0, 29), st.integers(1, 30), st.integers(0, 100), st.integers(1, 100))
def test_the_size_of_a_region_is_its_layers_times_its_tokens(layer: int, layers: int, token: int, tokens: int) -> None:
    region = KvRegion(layer, layer + layers, token, token + tokens)
    assert (region.layers, region.tokens) == (layers, tokens)
    assert region.size_bytes(LAYOUT) == layers * tokens * LAYOUT.token_layer_bytes


@pytest.mark.parametrize(
    ("region", "fits"),
    [
        (KvRegion(0, 30, 0, 10), True),
        (KvRegion(29, 30, 9, 10), True),
        (KvRegion(0, 31, 0, 10), False),
        (KvRegion(0, 30, 0, 11), False),
        (KvRegion(5, 5, 0, 10), False),
        (KvRegion(5, 4, 0, 10), False),
        (KvRegion(0, 30, 10, 10), False),
        (KvRegion(0, 30, 6, 5), False),
        (KvRegion(-1, 30, 0, 10), False),
        (KvRegion(0, 30, -1, 10), False),
    ],
)
def test_a_region_fits_when_it_is_a_rectangle_inside(region: KvRegion, fits: bool) -> None:
    assert region.fits(LAYOUT, 10) is fits


@pytest.mark.parametrize(
    ("token_id", "emitted", "sampling", "expected"),
    [
        (1, 1, SamplingParams(), None),
        (7, 1, SamplingParams(), FinishReason.STOP),
        (7, 1, SamplingParams(ignore_eos=True), None),
        (9, 1, SamplingParams(stop_token_ids=(9,)), FinishReason.STOP),
        (9, 1, SamplingParams(stop_token_ids=(9,), ignore_eos=True), FinishReason.STOP),
        (1, 5, SamplingParams(), FinishReason.LENGTH),
        (1, 6, SamplingParams(), FinishReason.LENGTH),
        (7, 5, SamplingParams(), FinishReason.STOP),
    ],
)
def test_when_a_generation_ends(
    token_id: int, emitted: int, sampling: SamplingParams, expected: FinishReason | None
) -> None:
    assert finish_reason(token_id, emitted, 5, EOS, sampling) is expected


@given(st.integers(0, 1 << 40), st.integers(1, 1024))
def test_blocks_hold_the_tokens_and_no_block_more(tokens: int, block_tokens: int) -> None:
    blocks = blocks_of(tokens, block_tokens)
    assert (blocks - 1) * block_tokens < tokens <= blocks * block_tokens or blocks == tokens == 0


def test_greedy_is_temperature_zero() -> None:
    assert SamplingParams(temperature=0.0).greedy
    assert not SamplingParams().greedy
