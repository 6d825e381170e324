"""Attention on the CPU in plain torch calls, over each sequence's own KV, without padding or gather.

Every query row gets the same bits wherever it is computed: alone, in a batch, in a slice of any length. What makes
it so:

- products of queries and keys reduce over `head_dim` alone; both ways of writing them (`q @ k.T` for many rows,
  `k @ q.T` for few in bf16) accumulate in the same order;
- float32 products get at least `_MIN_ROWS` rows, since the library has another kernel for fewer;
- keys after a row's own position weigh exactly zero, and lengths are multiples of `BLOCK_TOKENS`, so that zeros append
  whole vectors to a sum and change nothing;
- products of weights and values reduce over chunks of a fixed length at fixed positions, summed in order in float32.

The kernel libraries promise none of this; the tests prove it for the machine they run on.

Knows no model and no sequence; runners hand it a `PackedBatch`.
"""

from __future__ import annotations

import functools

import torch

from shared.engine.attention import AttentionKind
from shared.engine.kv_memory import BLOCK_TOKENS, KvMemory
from shared.engine.packed import PackedBatch, Segment

_MIN_ROWS = 4
_TILE_ROWS = 512
_CHUNK_TOKENS = {torch.bfloat16: 512, torch.float32: 128}
"""Value chunks: the longest at which the libraries do not yet split the sum by the number of rows."""


class CpuAttention:
    """The attention of one packed forward pass. See `attention.AttentionContext`."""

    def __init__(self, memory: KvMemory, batch: PackedBatch) -> None:
        self._memory = memory
        self._segments = batch.segments
        self._rows = batch.input_ids.shape[1]
        self._write_at = _write_rows(batch)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        used = self._write_at.shape[2]
        kv = torch.stack((key[:, :used], value[:, :used]))
        self._memory.rows.index_copy_(0, self._write_at[layer].reshape(-1), kv.view(-1, key.shape[-1]))
        out = query.new_zeros((self._rows, query.shape[0], query.shape[2]))
        kv_heads, _, head_dim = key.shape
        for segment in self._segments:
            rows = slice(segment.row, segment.row + segment.tokens)
            _attend_segment(
                segment, layer, query[:, rows].view(kv_heads, -1, segment.tokens, head_dim), kind, out[rows]
            )
        return out


def _write_rows(batch: PackedBatch) -> torch.Tensor:
    """Where each token's K and V go: row numbers of `KvMemory.rows`, `[layers, 2 * kv_heads, tokens]`."""
    per_segment = []
    for segment in batch.segments:
        layers, two, kv_heads, capacity, _ = segment.space.kv.shape
        heads = torch.arange(layers * two * kv_heads).view(layers, two * kv_heads, 1) * capacity
        per_segment.append(heads + torch.arange(segment.start, segment.stop) + segment.space.first_row)
    return torch.cat(per_segment, dim=2)


def _attend_segment(segment: Segment, layer: int, query: torch.Tensor, kind: AttentionKind, out: torch.Tensor) -> None:
    """`query` `[kv_heads, group, tokens, head_dim]`; `out` `[tokens, heads, head_dim]` is filled."""
    keys, values = segment.space.kv[layer].unbind(0)
    tile_tokens = max(32, min(128, _TILE_ROWS // query.shape[1]))
    for first in range(0, segment.tokens, tile_tokens):
        tile = query[:, :, first : first + tile_tokens]
        attended = _attend_tile(tile, keys, values, segment.start + first, kind)
        out[first : first + tile.shape[2]] = attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend_tile(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, kind: AttentionKind
) -> torch.Tensor:
    """`query` `[kv_heads, group, tokens, head_dim]`, its first token at `position`; the result has the same shape."""
    kv_heads, group, tokens, head_dim = query.shape
    chunk = _CHUNK_TOKENS[query.dtype]
    begin = 0 if kind.window is None else max(0, position - kind.window + 1) // chunk * chunk
    end = (position + tokens + BLOCK_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    flat = query.reshape(kv_heads, group * tokens, head_dim)
    rows = flat.shape[1]
    if rows < _MIN_ROWS:
        flat = torch.cat((flat, flat.new_zeros((kv_heads, _MIN_ROWS - rows, head_dim))), dim=1)
    scores = _scores(flat, keys[:, begin:end], kind.scale)
    if kind.softcap is not None:
        scores = scores.float().div_(kind.softcap).tanh_().mul_(kind.softcap).to(query.dtype)
    _mask(scores[:, :rows].view(kv_heads, group, tokens, -1), position, begin, kind.window)
    weighted = _weighted(torch.softmax(scores, dim=-1), values[:, begin:end], chunk)
    return weighted[:, :rows].view(query.shape)


def _scores(query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """`[kv_heads, rows, keys]`, scaled. For few rows `k @ q.T` spares the library a transposed copy of all keys."""
    unused = query.new_zeros(())
    if query.dtype == torch.bfloat16 and query.shape[1] <= 32:
        shape = (keys.shape[0], keys.shape[1], query.shape[1])
        flipped = torch.baddbmm(unused.expand(shape), keys, query.transpose(1, 2), beta=0, alpha=scale)
        return flipped.transpose(1, 2).contiguous()
    shape = (keys.shape[0], query.shape[1], keys.shape[1])
    return torch.baddbmm(unused.expand(shape), query, keys.transpose(1, 2), beta=0, alpha=scale)


def _mask(scores: torch.Tensor, position: int, begin: int, window: int | None) -> None:
    """Hide from each row `[..., tokens, keys]` what lies after it, or further back than `window`.

    The keys start at position `begin`.
    """
    tokens, keys = scores.shape[-2:]
    later = _later(tokens, begin + keys - position)
    scores[..., position - begin :].masked_fill_(later, float("-inf"))
    if window is not None and position + tokens - window > begin:
        age = torch.arange(position, position + tokens).unsqueeze(1) - torch.arange(begin, begin + keys)
        scores.masked_fill_(age >= window, float("-inf"))


@functools.lru_cache(maxsize=512)
def _later(tokens: int, keys: int) -> torch.Tensor:
    """`[tokens, keys]`: whether a key lies after a row, both counted from the same position."""
    return torch.ones((tokens, keys), dtype=torch.bool).triu_(1)


def _weighted(weights: torch.Tensor, values: torch.Tensor, chunk: int) -> torch.Tensor:
    """`[kv_heads, rows, head_dim]`: the values' sum under `weights`, chunk by chunk."""
    keys = values.shape[1]
    if keys <= chunk:
        return torch.bmm(weights, values)
    total = torch.bmm(weights[..., :chunk], values[:, :chunk]).float()
    for first in range(chunk, keys, chunk):
        total += torch.bmm(weights[..., first : first + chunk], values[:, first : first + chunk])
    return total.to(weights.dtype)
