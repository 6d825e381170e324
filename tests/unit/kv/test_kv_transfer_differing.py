"""Sender and receiver whose caches differ, and caches that travel as int8, over channels good and bad."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_pair import EPOCH, PERFECT, SESSION, TRANSFER, Faults, Pair, spec_of
from virtual_time import run

from shared.core import KvEncoding, KvLayout, KvRegion
from shared.errors import HandoffFailed
from shared.kv.encoding import wire_bytes
from shared.kv.receiver import Receiver, TransferIdentity

DTYPES = ["float32", "float16", "bfloat16"]
LAYOUT = KvLayout(layers=3, kv_heads=2, head_dim=16, dtype="bfloat16")

layouts = st.builds(
    KvLayout,
    layers=st.integers(1, 4),
    kv_heads=st.integers(1, 2),
    head_dim=st.sampled_from([8, 9, 16]),
    dtype=st.sampled_from(DTYPES),
)
faults = st.builds(
    Faults,
    lose=st.sampled_from([0.0, 0.1]),
    repeat=st.sampled_from([0.0, 0.2]),
    corrupt=st.sampled_from([0.0, 0.1]),
    hold=st.sampled_from([0.0, 0.2]),
    feedback_too=st.booleans(),
)


@given(
    layout=layouts,
    sink_dtype=st.sampled_from(DTYPES),
    encoding=st.sampled_from(KvEncoding),
    tokens=st.integers(1, 40),
    cached=st.integers(0, 39),
    slice_tokens=st.integers(1, 40),
    chunk_bytes=st.integers(1, 2000),
    window_chunks=st.integers(2, 6),
    faults=faults,
    seed=st.integers(0, 2**16),
)
@settings(max_examples=200, deadline=None)
def test_any_two_caches_pair_and_every_cell_comes_as_near_as_it_can(
    *,
    layout: KvLayout,
    sink_dtype: str,
    encoding: KvEncoding,
    tokens: int,
    cached: int,
    slice_tokens: int,
    chunk_bytes: int,
    window_chunks: int,
    faults: Faults,
    seed: int,
) -> None:
    """`kv_pair` checks every import, and that nothing is published without credit."""
    pair = Pair(
        layout,
        tokens=tokens,
        cached_tokens=min(cached, tokens - 1),
        chunk_bytes=chunk_bytes,
        window_bytes=window_chunks * max(chunk_bytes, layout.token_layer_bytes),
        faults=faults,
        seed=seed,
        sink_dtype=sink_dtype,
        encoding=encoding,
    )
    try:
        run(pair.send(slice_tokens))
    except HandoffFailed:
        assert faults != PERFECT
    else:
        assert pair.receiver.complete
        assert pair.receiver.encoding is encoding


def test_int8_takes_half_the_bytes_and_the_scales() -> None:
    pair = Pair(LAYOUT, tokens=64, chunk_bytes=1 << 20, window_bytes=1 << 21, encoding=KvEncoding.INT8)
    run(pair.send())
    exact = 64 * LAYOUT.token_bytes
    assert pair.channel.published_bytes == exact // 2 + LAYOUT.layers * 2 * LAYOUT.kv_heads * 4
    assert pair.channel.published_bytes == pair.receiver.payload_bytes


@pytest.mark.parametrize(("cached", "words"), [(0, "exact"), (16, "int8 (lossy)")])
def test_a_beginning_that_was_here_may_have_come_as_int8(cached: int, words: str) -> None:
    """Whoever asks for int8 cannot know that what it kept came exact."""
    pair = Pair(LAYOUT, tokens=64, cached_tokens=cached, chunk_bytes=1 << 20, window_bytes=1 << 21)
    pair.receiver = pair.channel.receiver = Receiver(
        pair.sink,
        "key",
        spec_of(LAYOUT),
        TransferIdentity(session=SESSION, epoch=EPOCH, transfer=TRANSFER),
        prompt_tokens=64,
        cached_tokens=cached,
        window_bytes=1 << 21,
        accepts=(KvEncoding.INT8, KvEncoding.EXACT),
    )
    run(pair.send())
    assert pair.identical
    assert pair.receiver.travelled == words


@pytest.mark.parametrize("head_dim", [1, 4, 7])
def test_where_int8_saves_nothing_cells_go_exact(head_dim: int) -> None:
    layout = KvLayout(layers=2, kv_heads=1, head_dim=head_dim, dtype="float16")
    pair = Pair(layout, tokens=9, encoding=KvEncoding.INT8)
    run(pair.send())
    assert pair.sender.encoding is KvEncoding.EXACT
    assert pair.identical


@given(layout=layouts, tokens=st.integers(1, 300))
def test_int8_is_never_longer_than_exact(layout: KvLayout, tokens: int) -> None:
    region = KvRegion(0, layout.layers, 0, tokens)
    assert wire_bytes(layout, region, KvEncoding.INT8) <= wire_bytes(layout, region, KvEncoding.EXACT)


def test_a_cache_that_is_not_finite_is_not_handed_over_as_int8() -> None:
    pair = Pair(LAYOUT, tokens=16, chunk_bytes=1 << 20, window_bytes=1 << 21, encoding=KvEncoding.INT8)
    pair.source.cells[1, 0, 1, 7, :2] = (0x80, 0x7F)
    with pytest.raises(HandoffFailed, match="finite"):
        run(pair.send())
    assert pair.sink.imports == 0
