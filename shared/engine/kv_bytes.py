"""Rectangles of one sequence's KV as bytes, and back: `[layer, k|v, kv_head, token, head_dim]`, C-contiguous.

Knows no transfer and no message; `torch_engine` calls it for export and import.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from shared.core import KvRegion
from shared.engine.kv_memory import KvSpace

# Below that, many parts cost more than a copy.
PART_BYTES = 8 << 10

_SAME_SIZE = {2: torch.int16, 4: torch.int32}


def read(space: KvSpace, region: KvRegion) -> memoryview:
    """The bytes of `region`: a copy, on its own."""
    return np.ascontiguousarray(_window(space, region)).data.cast("B")


def parts(space: KvSpace, region: KvRegion) -> list[memoryview]:
    """The same bytes: one run of tokens of one head after the other, as they are in memory, when runs are long."""
    window = _window(space, region)
    run_bytes = window.shape[3] * window.shape[4] * window.itemsize
    if run_bytes < PART_BYTES:
        return [read(space, region)]
    runs = window.reshape(-1, window.shape[3] * window.shape[4]).view(np.uint8)
    return [run.data for run in runs]


def write(space: KvSpace, region: KvRegion, payload: memoryview) -> None:
    """Copy `payload` into `region`. Raises ValueError when the sizes differ."""
    window = _window(space, region)
    np.copyto(window, np.frombuffer(payload, dtype=window.dtype).reshape(window.shape))


def _window(space: KvSpace, region: KvRegion) -> npt.NDArray[np.signedinteger]:
    """The region's memory as integers of the cache's width, which numpy has no bf16 for."""
    kv = space.kv[region.layer_start : region.layer_stop, :, :, region.token_start : region.token_stop]
    window: npt.NDArray[np.signedinteger] = kv.view(_SAME_SIZE[kv.element_size()]).numpy()
    return window
