"""Rectangles of one sequence's KV as bytes, and back: `[layer, k|v, kv_head, token, head_dim]`, C-contiguous.

Knows no transfer and no message; `torch_engine` calls it for export and import.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from shared.core import KvRegion
from shared.engine.kv_memory import BLOCK_TOKENS, KvSpace

# Parts smaller than this, on average, cost more than a copy.
PART_BYTES = 4 << 10

_SAME_SIZE = {2: torch.int16, 4: torch.int32}

Window = npt.NDArray[np.signedinteger]


def read(space: KvSpace, region: KvRegion) -> memoryview:
    """The bytes of `region`: a copy, on its own."""
    windows = list(_windows(space, region))
    return np.ascontiguousarray(np.concatenate(windows, axis=3)).data.cast("B")


def parts(space: KvSpace, region: KvRegion) -> list[memoryview]:
    """The same bytes: runs of tokens of one head and block, as they lie in memory, where these are long."""
    windows = [window.reshape(*window.shape[:3], -1).view(np.uint8) for window in _windows(space, region)]
    if sum(window.shape[3] for window in windows) < PART_BYTES * len(windows):
        return [read(space, region)]
    heads = np.ndindex(windows[0].shape[:3])
    return [window[head].data for head in heads for window in windows]


def write(space: KvSpace, region: KvRegion, payload: memoryview) -> None:
    """Copy `payload` into `region`. Raises ValueError when the sizes differ."""
    windows = list(_windows(space, region))
    layers, two, kv_heads, _, head_dim = windows[0].shape
    values = np.frombuffer(payload, dtype=windows[0].dtype).reshape(layers, two, kv_heads, region.tokens, head_dim)
    first = 0
    for window in windows:
        last = first + window.shape[3]
        np.copyto(window, values[:, :, :, first:last])
        first = last


def _windows(space: KvSpace, region: KvRegion) -> Iterator[Window]:
    """The region's memory, block by block, as integers of the cache's width, which numpy has no bf16 for."""
    arena = space.arena.view(_SAME_SIZE[space.arena.element_size()]).numpy()
    layers = slice(region.layer_start, region.layer_stop)
    for index in range(region.token_start // BLOCK_TOKENS, -(-region.token_stop // BLOCK_TOKENS)):
        begin = index * BLOCK_TOKENS
        tokens = slice(max(region.token_start - begin, 0), min(region.token_stop - begin, BLOCK_TOKENS))
        yield arena[layers, :, space.numbers[index], :, tokens].swapaxes(1, 2)
