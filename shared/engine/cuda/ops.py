"""The work between a Llama-like layer's matrix products on paged KV memory. See `llama_ops.LlamaOps`.

With `triton_kernels` it is what runs on a GPU; with `torch_kernels` the same code runs on a CPU, for tests.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from shared.engine.attention import AttentionKind
from shared.engine.cuda.batch import PagedBatch
from shared.engine.cuda.kernels import PagedKernels, Rope
from shared.engine.cuda.pages import Pages, pages_of
from shared.engine.cuda.views import paged_view
from shared.engine.llama_config import LlamaConfig
from shared.engine.llama_ops import MIN_ROWS, LlamaPass
from shared.engine.llama_weights import LayerWeights
from shared.engine.packed import PackedBatch, RowRule
from shared.engine.team import ROWS_AT_ONCE


class PagedOps:
    """See `llama_ops.LlamaOps`."""

    def __init__(
        self,
        config: LlamaConfig,
        dtype: torch.dtype,
        angles: tuple[torch.Tensor, torch.Tensor],
        kernels: PagedKernels,
        arena: torch.Tensor,
    ) -> None:
        """`angles` are the tables of `llama_rope`, `arena` is `KvMemory.arena`."""
        self.config = config
        self.kernels = kernels
        self.kind = AttentionKind(scale=config.head_dim**-0.5)
        self.layers = paged_view(arena).unbind(0)
        on_cpu = arena.device.type == "cpu"
        self.row_rule = RowRule(MIN_ROWS[dtype], ROWS_AT_ONCE[dtype]) if on_cpu else RowRule(1, 1)
        self._cosines, self._sines = (table.to(arena.device) for table in angles)

    def begin(self, batch: PackedBatch) -> LlamaPass:
        if isinstance(batch, PagedBatch):
            return _PagedPass(self, batch.pages)
        rows, device = batch.input_ids.shape[1], batch.input_ids.device
        return _PagedPass(self, pages_of(batch.segments, rows, device, self.kernels.tile_tokens))

    def norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.kernels.add_rms_norm(hidden, None, weight, self.config.rms_norm_eps)

    def add_norm(self, hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.kernels.add_rms_norm(hidden, update, weight, self.config.rms_norm_eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return self.kernels.silu_mul(gate_up)

    def rope(self, layer: int, weights: LayerWeights) -> Rope:
        """How the queries and keys of `layer` are prepared."""
        rope = Rope(self._cosines, self._sines) if self.config.rotated[layer] else Rope(None, None)
        if weights.query_norm is None:
            return rope
        return replace(rope, query_norm=weights.query_norm, key_norm=weights.key_norm, eps=self.config.rms_norm_eps)


class _PagedPass:
    """See `llama_ops.LlamaPass`."""

    def __init__(self, ops: PagedOps, pages: Pages) -> None:
        self._ops, self._pages = ops, pages

    def attend(self, layer: int, weights: LayerWeights, qkv: torch.Tensor) -> torch.Tensor:
        ops, config = self._ops, self._ops.config
        kv = ops.layers[layer]
        ops.kernels.rope_store(kv, qkv, self._pages, ops.rope(layer, weights))
        query = qkv.view(len(qkv), -1, config.head_dim)[:, : config.heads]
        return ops.kernels.attend(kv, query, self._pages, ops.kind).flatten(1)
