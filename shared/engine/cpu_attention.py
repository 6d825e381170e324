"""Attention on the CPU in plain torch calls, without padding. What the native kernels read in place is gathered here.

Every query row gets the same bits wherever it is computed: alone, in a batch, in a slice of any length. What makes
it so:

- products of queries and keys reduce over `head_dim` alone; the two ways of writing them that `cpu_slices` and
  `cpu_steps` use accumulate in the same order;
- float32 products get at least four rows, since the library has another kernel for fewer;
- keys after a row's own position weigh exactly zero, and lengths are multiples of `BLOCK_TOKENS`, so that zeros append
  whole vectors to a sum and change nothing;
- products of weights and values reduce over chunks of a fixed length at fixed positions, summed in order in float32.

The kernel libraries promise none of this; the tests prove it for the machine they run on.

Knows no model and no sequence; runners hand it a `PackedBatch`.
"""

from __future__ import annotations

import torch

from shared.core import blocks_of
from shared.engine.attention import AttentionKind
from shared.engine.cpu_slices import attend_slice
from shared.engine.cpu_steps import CpuSteps
from shared.engine.kv_memory import BLOCK_TOKENS, KvMemory
from shared.engine.packed import PackedBatch, Segment


class CpuAttention:
    """The attention of one packed forward pass. See `attention.AttentionContext`."""

    def __init__(self, memory: KvMemory, batch: PackedBatch) -> None:
        self._rows_of_memory = memory.arena.view(-1, memory.arena.shape[-1])
        self._slices = [segment for segment in batch.segments if segment.tokens > 1]
        steps = [segment for segment in batch.segments if segment.tokens == 1]
        self._steps = CpuSteps(steps) if steps else None
        self._rows = batch.input_ids.shape[1]
        self._write_at = _write_rows(batch)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        used = self._write_at.shape[2]
        kv = torch.stack((key[:, :used], value[:, :used]))
        self._rows_of_memory.index_copy_(0, self._write_at[layer].reshape(-1), kv.view(-1, key.shape[-1]))
        heads, _, head_dim = query.shape
        query = query * kind.scale
        out = query.new_zeros((self._rows, heads, head_dim))
        if self._steps is not None:
            self._steps.attend(layer, query, kind, out)
        for segment in self._slices:
            rows = slice(segment.row, segment.row + segment.tokens)
            grouped = query[:, rows].view(key.shape[0], -1, segment.tokens, head_dim)
            seen = segment.space.gather(layer, blocks_of(segment.stop, BLOCK_TOKENS))
            attend_slice(grouped, seen, segment.start, kind, out[rows])
        return out


def _write_rows(batch: PackedBatch) -> torch.Tensor:
    """Where each token's K and V go: rows of the arena, `[layers, 2 * kv_heads, tokens]`."""
    return torch.cat([_segment_rows(segment) for segment in batch.segments], dim=2)


def _segment_rows(segment: Segment) -> torch.Tensor:
    layers, kv_heads, blocks, two, _, _ = segment.space.arena.shape
    halves = torch.arange(layers * kv_heads * two).view(layers, kv_heads, two).transpose(1, 2)
    first = halves // two * (blocks * two) + halves % two
    positions = torch.arange(segment.start, segment.stop)
    own = torch.tensor(segment.space.numbers)[positions // BLOCK_TOKENS]
    return (first.reshape(layers, -1, 1) + own * two) * BLOCK_TOKENS + positions % BLOCK_TOKENS
