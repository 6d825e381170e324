"""Where the tokens of one forward pass lie in KV memory, as the native kernels read it.

Built once per pass, from the batch's segments; every layer of the pass uses it. Knows addresses, not tensors' contents.
"""

from __future__ import annotations

import numpy as np

from shared.engine.packed import PackedBatch


class KvTable:
    """The segments of `batch` as rows of int64: address of the region, capacity, start, tokens, first row.

    Holds no reference to the memory: the arena outlives every pass.
    """

    def __init__(self, batch: PackedBatch) -> None:
        self.segments = np.array(
            [(one.space.kv.data_ptr(), one.space.capacity, one.start, one.tokens, one.row) for one in batch.segments],
            dtype=np.int64,
        ).reshape(-1, 5)
        kv = batch.segments[0].space.kv
        self.positions = max(one.stop for one in batch.segments)
        self.rows = batch.input_ids.shape[1]
        self.dtype = kv.dtype
        self.kv_heads = kv.shape[2]
        self.head_dim = kv.shape[4]
        self.address = self.segments.ctypes.data
        self.count = len(self.segments)
