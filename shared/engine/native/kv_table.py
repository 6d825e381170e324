"""Where the tokens of one forward pass lie in KV memory, as the native kernels read it.

Built once per pass, from the batch's segments; every layer of the pass uses it. Knows addresses, not tensors' contents.
"""

from __future__ import annotations

import numpy as np

from shared.engine.packed import PackedBatch


class KvTable:
    """The segments of `batch` as rows of int64: address of the blocks' addresses, start, tokens, first row.

    Keeps the batch, and with it the tables; the arena outlives every pass.
    """

    def __init__(self, batch: PackedBatch) -> None:
        self.segments = np.array(
            [(one.space.table_address, one.start, one.tokens, one.row) for one in batch.segments], dtype=np.int64
        ).reshape(-1, 4)
        arena = batch.segments[0].space.arena
        self._batch = batch
        self.positions = max(one.stop for one in batch.segments)
        self.rows = batch.input_ids.shape[1]
        self.dtype = arena.dtype
        self.layer_stride, self.head_stride = arena.stride()[:2]
        self.kv_heads = arena.shape[1]
        self.head_dim = arena.shape[5]
        self.address = self.segments.ctypes.data
        self.count = len(self.segments)
