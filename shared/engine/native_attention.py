"""Attention on the CPU by the native kernels, for the general path. The counterpart of `cpu_attention`.

A row's bits depend on nothing but that row and its own cache, by construction: see `native/src/attention.cpp`. They
are not the bits of `cpu_attention`; a process uses one of the two.

Knows no model and no sequence; runners hand it a `PackedBatch`.
"""

from __future__ import annotations

import torch

from shared.engine.attention import AttentionKind
from shared.engine.native import Kernels, KvTable
from shared.engine.packed import PackedBatch


class NativeAttention:
    """The attention of one packed forward pass. See `attention.AttentionContext`."""

    def __init__(self, kernels: Kernels, batch: PackedBatch) -> None:
        self._kernels = kernels
        self._table = KvTable(batch)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        query, key, value = (_by_row(one) for one in (query, key, value))
        self._kernels.store(self._table, layer, key, value)
        out = query.new_empty(query.shape)
        self._kernels.attend(self._table, layer, query, out, kind)
        return out


def _by_row(heads: torch.Tensor) -> torch.Tensor:
    """`[heads, rows, head_dim]` as `[rows, heads, head_dim]`, copied only when a head's numbers are not adjacent."""
    return (heads if heads.stride(2) == 1 else heads.contiguous()).transpose(0, 1)
