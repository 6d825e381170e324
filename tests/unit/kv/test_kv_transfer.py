"""Sender and receiver together, over a channel that does its worst: complete and identical, or HandoffFailed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_pair import PERFECT, Faults, Pair
from virtual_time import run

from shared.core import KvLayout
from shared.errors import HandoffFailed

LAYOUT = KvLayout(layers=3, kv_heads=2, head_dim=2, dtype="float16")

layouts = st.builds(
    KvLayout,
    layers=st.integers(1, 5),
    kv_heads=st.integers(1, 2),
    head_dim=st.integers(1, 3),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
)
probabilities = st.sampled_from([0.0, 0.02, 0.2, 0.6])
all_faults = st.builds(
    Faults,
    lose=probabilities,
    repeat=probabilities,
    corrupt=probabilities,
    hold=probabilities,
    feedback_too=st.booleans(),
)


@given(
    layout=layouts,
    tokens=st.integers(1, 40),
    cached=st.integers(0, 39),
    slice_tokens=st.integers(1, 40),
    chunk_bytes=st.integers(1, 400),
    window_chunks=st.integers(2, 6),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=150, deadline=None)
def test_over_a_perfect_channel_nothing_is_sent_twice_and_nobody_waits(
    *, layout: KvLayout, tokens: int, cached: int, slice_tokens: int, chunk_bytes: int, window_chunks: int, seed: int
) -> None:
    cached = min(cached, tokens - 1)
    window_bytes = window_chunks * max(chunk_bytes, layout.token_layer_bytes)
    pair = Pair(
        layout, tokens=tokens, cached_tokens=cached, chunk_bytes=chunk_bytes, window_bytes=window_bytes, seed=seed
    )
    run(pair.send(slice_tokens))
    assert pair.identical
    assert pair.receiver.complete
    assert pair.channel.published_bytes == (tokens - cached) * layout.token_bytes == pair.receiver.payload_bytes
    assert (pair.channel.probes, pair.channel.manifests, pair.sender.resent_chunks) == (0, 1, 0)
    assert max(pair.channel.sizes) <= max(chunk_bytes, layout.token_layer_bytes)


@given(
    layout=layouts,
    tokens=st.integers(1, 40),
    cached=st.integers(0, 39),
    slice_tokens=st.integers(1, 40),
    chunk_bytes=st.integers(1, 400),
    window_bytes=st.integers(1, 2000),
    faults=all_faults,
    seed=st.integers(0, 2**16),
)
@settings(max_examples=300, deadline=None)
def test_over_any_channel_the_cache_is_whole_or_the_handoff_has_failed(
    *,
    layout: KvLayout,
    tokens: int,
    cached: int,
    slice_tokens: int,
    chunk_bytes: int,
    window_bytes: int,
    faults: Faults,
    seed: int,
) -> None:
    """`kv_pair` checks on the way that no wrong byte is imported and nothing is published without credit."""
    pair = Pair(
        layout,
        tokens=tokens,
        cached_tokens=min(cached, tokens - 1),
        chunk_bytes=chunk_bytes,
        window_bytes=window_bytes,
        faults=faults,
        seed=seed,
    )
    try:
        run(pair.send(slice_tokens))
    except HandoffFailed:
        assert faults != PERFECT or window_bytes < layout.token_layer_bytes
    else:
        assert pair.identical
        assert pair.receiver.complete


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(lose=0.1, feedback_too=False), id="lost"),
        pytest.param(Faults(corrupt=0.1, feedback_too=False), id="corrupt"),
        pytest.param(Faults(repeat=0.5), id="repeated"),
        pytest.param(Faults(hold=0.2, feedback_too=False), id="late"),
        pytest.param(Faults(lose=0.03, repeat=0.1, corrupt=0.03, hold=0.1), id="all at once, both ways"),
    ],
)
def test_moderate_faults_are_repaired(faults: Faults, seed: int) -> None:
    pair = Pair(LAYOUT, tokens=120, chunk_bytes=128, window_bytes=1024, faults=faults, seed=seed)
    run(pair.send(slice_tokens=32))
    assert pair.identical


def test_a_dead_channel_fails_in_bounded_time() -> None:
    pair = Pair(LAYOUT, tokens=40, window_bytes=1 << 20, faults=Faults(lose=1.0))
    with pytest.raises(HandoffFailed, match="did not confirm"):
        run(pair.send())


def test_a_dead_channel_without_credit_fails_in_bounded_time() -> None:
    pair = Pair(LAYOUT, tokens=40, window_bytes=128, faults=Faults(lose=1.0))
    with pytest.raises(HandoffFailed, match="credit"):
        run(pair.send())


def test_chunks_lost_with_their_credit_do_not_hold_up_the_rest() -> None:
    """The receiver never hears of them, so only a probe can give their credit back."""
    pair = Pair(
        LAYOUT, tokens=64, chunk_bytes=64, window_bytes=256, faults=Faults(lose=0.2, feedback_too=False), seed=5
    )
    run(pair.send())
    assert pair.identical
    assert pair.channel.probes > 0
