"""Attention of a slice of one sequence: tiles of query rows against all keys up to their own position.

Knows one layer of one sequence; `cpu_attention` calls it, and says why its bits are what they are.
"""

from __future__ import annotations

import functools

import torch

from shared.engine.attention import AttentionKind
from shared.engine.cpu_chunks import CHUNK_TOKENS, MIN_ROWS, softcapped, sum_in_order
from shared.engine.kv_memory import whole_blocks

_TILE_ROWS = 512


def attend_slice(query: torch.Tensor, kv: torch.Tensor, start: int, kind: AttentionKind, out: torch.Tensor) -> None:
    """Fill `out` `[tokens, heads, head_dim]`.

    `query` is `[kv_heads, group, tokens, head_dim]`, scaled, its first token at position `start`; `kv` is
    `[2, kv_heads, capacity, head_dim]`.
    """
    tile_tokens = max(32, min(128, _TILE_ROWS // query.shape[1]))
    for first in range(0, query.shape[2], tile_tokens):
        tile = query[:, :, first : first + tile_tokens]
        attended = _attend_tile(tile, kv, start + first, kind)
        out[first : first + tile.shape[2]].view(tile.shape[2], *tile.shape[:2], -1).copy_(attended.permute(2, 0, 1, 3))


def _attend_tile(query: torch.Tensor, kv: torch.Tensor, position: int, kind: AttentionKind) -> torch.Tensor:
    """The result has `query`'s shape, `[kv_heads, group, tokens, head_dim]`; its first token is at `position`."""
    kv_heads, group, tokens, head_dim = query.shape
    chunk = CHUNK_TOKENS[query.dtype]
    begin = 0 if kind.window is None else max(0, position - kind.window + 1) // chunk * chunk
    keys, values = kv[:, :, begin : whole_blocks(position + tokens)].unbind(0)
    flat = query.reshape(kv_heads, group * tokens, head_dim)
    missing = MIN_ROWS[query.dtype] - group * tokens
    if missing > 0:
        flat = torch.cat((flat, flat.new_zeros((kv_heads, missing, head_dim))), dim=1)
    scores = torch.bmm(flat, keys.transpose(1, 2))
    if kind.softcap is not None:
        scores = softcapped(scores, kind.softcap)
    _mask(scores[:, : group * tokens].view(kv_heads, group, tokens, -1), position, begin, kind.window)
    weights = torch.softmax(scores, dim=-1)
    parts = zip(torch.split(weights, chunk, dim=2), torch.split(values, chunk, dim=1), strict=True)
    attended = sum_in_order([torch.bmm(part, value) for part, value in parts])
    return attended[:, : group * tokens].view(query.shape)


def _mask(scores: torch.Tensor, position: int, begin: int, window: int | None) -> None:
    """Hide from each row of `[..., tokens, keys]` what lies after it, or further back than `window`.

    The first row is at `position`, the first key at `begin`.
    """
    tokens, keys = scores.shape[-2:]
    scores[..., position - begin :].masked_fill_(_later(tokens, begin + keys - position), float("-inf"))
    if window is not None and position + tokens - window > begin:
        age = torch.arange(position, position + tokens).unsqueeze(1) - torch.arange(begin, begin + keys)
        scores.masked_fill_(age >= window, float("-inf"))


@functools.lru_cache(maxsize=512)
def _later(tokens: int, keys: int) -> torch.Tensor:
    """`[tokens, keys]`: whether a key lies after a row, both counted from the same position."""
    return torch.ones((tokens, keys), dtype=torch.bool).triu_(1)
