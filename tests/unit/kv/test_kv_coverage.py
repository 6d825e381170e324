"""The bitmap of arrived cells against a plain set."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core import KvLayout, KvRegion
from shared.kv.coverage import Coverage

LAYERS, TOKENS = 4, 9
LAYOUT = KvLayout(layers=LAYERS, kv_heads=1, head_dim=1, dtype="float32")

Cell = tuple[int, int]


def cells(region: KvRegion) -> list[Cell]:
    return [
        (layer, token)
        for layer in range(region.layer_start, region.layer_stop)
        for token in range(region.token_start, region.token_stop)
    ]


@st.composite
def regions(draw: st.DrawFn) -> KvRegion:
    layers = sorted(draw(st.sets(st.integers(0, LAYERS), min_size=2, max_size=2)))
    tokens = sorted(draw(st.sets(st.integers(0, TOKENS), min_size=2, max_size=2)))
    return KvRegion(*layers, *tokens)


@given(cached=st.integers(0, TOKENS), added=st.lists(regions(), max_size=12), asked=regions())
@settings(max_examples=300)
def test_it_is_a_set_of_cells(cached: int, added: list[KvRegion], asked: KvRegion) -> None:
    coverage = Coverage(LAYOUT, cached, TOKENS)
    arrived = set(cells(KvRegion(0, LAYERS, 0, cached)))
    for region in added:
        coverage.add(region)
        arrived.update(cells(region))
    everything = set(cells(KvRegion(0, LAYERS, 0, TOKENS)))

    missing = coverage.missing()

    found = [cell for region in missing for cell in cells(region)]
    assert sorted(found) == sorted(everything - arrived)
    assert all(region.fits(LAYOUT, TOKENS) for region in missing)
    assert missing == sorted(missing, key=lambda region: (region.layer_start, region.token_start))
    assert coverage.complete == (arrived == everything)
    assert coverage.holds(asked) == arrived.issuperset(cells(asked))


def test_what_is_missing_comes_as_few_rectangles() -> None:
    coverage = Coverage(LAYOUT, 2, TOKENS)
    coverage.add(KvRegion(0, LAYERS, 5, 6))
    assert coverage.missing() == [KvRegion(0, LAYERS, 2, 5), KvRegion(0, LAYERS, 6, TOKENS)]
