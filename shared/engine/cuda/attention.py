"""Attention on paged KV memory for the general path. See `attention.AttentionContext`; the counterpart of `ops`."""

from __future__ import annotations

import torch

from shared.engine.attention import AttentionKind
from shared.engine.cuda.batch import PagedBatch
from shared.engine.cuda.kernels import PagedKernels
from shared.engine.cuda.pages import pages_of
from shared.engine.cuda.views import paged_view
from shared.engine.packed import PackedBatch


class PagedAttention:
    """The attention of one packed forward pass."""

    def __init__(self, kernels: PagedKernels, arena: torch.Tensor, batch: PackedBatch) -> None:
        """`arena` is `KvMemory.arena`."""
        self._kernels, self._layers = kernels, paged_view(arena)
        if isinstance(batch, PagedBatch):
            self._pages = batch.pages
        else:
            rows, device = batch.input_ids.shape[1], batch.input_ids.device
            self._pages = pages_of(batch.segments, rows, device, kernels.tile_tokens)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        kv = self._layers[layer]
        self._kernels.store(kv, key, value, self._pages)
        return self._kernels.attend(kv, query.transpose(0, 1), self._pages, kind)
