"""How a range of tokens is cut into chunks: groups of layers, and groups of tokens where one layer is too large."""

from __future__ import annotations

from collections.abc import Iterator

from shared.core import KvLayout, KvRegion


def layers_per_chunk(layout: KvLayout, tokens: int, chunk_bytes: int) -> int:
    """How many layers of so many tokens make a chunk; at least one."""
    return max(1, min(layout.layers, chunk_bytes // (tokens * layout.token_layer_bytes)))


def split_region(layout: KvLayout, region: KvRegion, chunk_bytes: int) -> Iterator[KvRegion]:
    """`region` in pieces of at most `chunk_bytes`, in layer order; but never less than one token of one layer."""
    tokens_per_chunk = max(1, min(region.tokens, chunk_bytes // layout.token_layer_bytes))
    group = layers_per_chunk(layout, tokens_per_chunk, chunk_bytes)
    for layer in range(region.layer_start, region.layer_stop, group):
        layer_stop = min(layer + group, region.layer_stop)
        for token in range(region.token_start, region.token_stop, tokens_per_chunk):
            yield KvRegion(layer, layer_stop, token, min(token + tokens_per_chunk, region.token_stop))
