"""Cutting a range into chunks: every cell once, none beyond the limit but the smallest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.core import KvLayout, KvRegion
from shared.kv.plan import layers_per_chunk, split_region

layouts = st.builds(
    KvLayout,
    layers=st.integers(1, 12),
    kv_heads=st.integers(1, 4),
    head_dim=st.integers(1, 16),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)


def chunks(layout: KvLayout, token_start: int, token_stop: int, chunk_bytes: int) -> list[KvRegion]:
    """All layers of those tokens."""
    return list(split_region(layout, KvRegion(0, layout.layers, token_start, token_stop), chunk_bytes))


def times_covered(layout: KvLayout, regions: list[KvRegion], tokens: int) -> np.ndarray:
    cells = np.zeros((layout.layers, tokens), dtype=int)
    for region in regions:
        assert region.fits(layout, tokens)
        cells[region.layer_start : region.layer_stop, region.token_start : region.token_stop] += 1
    return cells


@given(layout=layouts, start=st.integers(0, 50), count=st.integers(0, 50), chunk_bytes=st.integers(-1, 20_000))
def test_a_plan_covers_every_cell_once(layout: KvLayout, start: int, count: int, chunk_bytes: int) -> None:
    cells = times_covered(layout, chunks(layout, start, start + count, chunk_bytes), start + count)
    assert (cells[:, :start] == 0).all()
    assert (cells[:, start:] == 1).all()


@given(layout=layouts, count=st.integers(1, 50), chunk_bytes=st.integers(1, 20_000))
def test_a_chunk_is_within_the_limit_or_one_token_of_one_layer(layout: KvLayout, count: int, chunk_bytes: int) -> None:
    for region in chunks(layout, 0, count, chunk_bytes):
        within = region.size_bytes(layout) <= chunk_bytes
        assert within or (region.layers, region.tokens) == (1, 1)


@given(layout=layouts, count=st.integers(1, 50))
def test_what_fits_one_chunk_is_one_chunk(layout: KvLayout, count: int) -> None:
    regions = chunks(layout, 0, count, count * layout.token_bytes)
    assert regions == [KvRegion(0, layout.layers, 0, count)]


@given(layout=layouts, data=st.data(), chunk_bytes=st.integers(1, 20_000))
def test_a_split_covers_the_region_and_no_more(layout: KvLayout, data: st.DataObject, chunk_bytes: int) -> None:
    layer = data.draw(st.integers(0, layout.layers - 1))
    layer_stop = data.draw(st.integers(layer + 1, layout.layers))
    token = data.draw(st.integers(0, 30))
    token_stop = data.draw(st.integers(token + 1, 40))
    region = KvRegion(layer, layer_stop, token, token_stop)
    expected = np.zeros((layout.layers, 40), dtype=int)
    expected[layer:layer_stop, token:token_stop] = 1
    assert (times_covered(layout, list(split_region(layout, region, chunk_bytes)), 40) == expected).all()


def test_layers_come_in_order() -> None:
    layout = KvLayout(layers=6, kv_heads=1, head_dim=1, dtype="float32")
    starts = [region.layer_start for region in chunks(layout, 0, 10, 100)]
    assert starts == sorted(starts)


@given(layout=layouts, count=st.integers(1, 50), chunk_bytes=st.integers(1, 20_000))
def test_layers_that_go_in_groups_make_the_same_chunks(layout: KvLayout, count: int, chunk_bytes: int) -> None:
    group = layers_per_chunk(layout, count, chunk_bytes)
    grouped = [
        chunk
        for layer in range(0, layout.layers, group)
        for chunk in split_region(layout, KvRegion(layer, min(layer + group, layout.layers), 0, count), chunk_bytes)
    ]
    assert grouped == chunks(layout, 0, count, chunk_bytes)
