"""Attention of single tokens, one of each of many sequences: a decode step.

Two matrix products per sequence and layer, each over its own keys and values; all else is done for the whole batch at
once. Knows one forward pass; `cpu_attention` calls it, and says why its bits are what they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.engine.attention import AttentionKind
from shared.engine.cpu_chunks import CHUNK_TOKENS, MIN_ROWS, softcapped, sum_in_order
from shared.engine.kv_memory import BLOCK_TOKENS, whole_blocks
from shared.engine.packed import Segment


class CpuSteps:
    """The single-token segments of one forward pass."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self._rows = torch.tensor([segment.row for segment in segments])
        self._positions = torch.tensor([[segment.start] for segment in segments])
        self._lengths = [whole_blocks(segment.stop) for segment in segments]
        self._longest = max(self._lengths)
        self._spaces = [segment.space for segment in segments]
        self._hidden: dict[int | None, torch.Tensor] = {}

    def attend(self, layer: int, query: torch.Tensor, kind: AttentionKind, out: torch.Tensor) -> None:
        """Fill the segments' rows of `out` `[rows, heads, head_dim]`; `query` is `[heads, rows, head_dim]`, scaled."""
        seen = [
            space.gather(layer, length // BLOCK_TOKENS)
            for space, length in zip(self._spaces, self._lengths, strict=True)
        ]
        grouped = self._grouped(seen[0].shape[1], query)
        scores = self._scores([kv[0] for kv in seen], grouped)
        if kind.softcap is not None:
            scores = softcapped(scores, kind.softcap)
        scores.masked_fill_(self._hidden_from(kind.window), float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        attended = torch.stack([_weighted(kv[1], one) for kv, one in zip(seen, weights.unbind(0), strict=True)])
        group = query.shape[0] // attended.shape[1]
        out[self._rows] = attended[:, :, :group].reshape(-1, *out.shape[1:])

    def _grouped(self, kv_heads: int, query: torch.Tensor) -> torch.Tensor:
        """The segments' queries `[segments, kv_heads, group, head_dim]`, filled up to the rows a product must have."""
        grouped = query[:, self._rows].transpose(0, 1).reshape(len(self._rows), kv_heads, -1, query.shape[2])
        missing = MIN_ROWS[query.dtype] - grouped.shape[2]
        return torch.nn.functional.pad(grouped, (0, 0, 0, missing)) if missing > 0 else grouped

    def _scores(self, keys: Sequence[torch.Tensor], grouped: torch.Tensor) -> torch.Tensor:
        """`[segments, kv_heads, group, longest]`; what lies behind a shorter sequence's length is left undefined.

        In bf16, `k @ q.T` spares the library a transposed copy of all keys. In float32 its bits are not those of
        `q @ k.T`.
        """
        segments, kv_heads, group, _ = grouped.shape
        if grouped.dtype != torch.bfloat16:
            scores = grouped.new_empty((segments, kv_heads, group, self._longest))
            for index, length in enumerate(self._lengths):
                torch.bmm(grouped[index], keys[index].transpose(1, 2), out=scores[index, ..., :length])
            return scores
        flipped = grouped.new_empty((segments, kv_heads, self._longest, group))
        queries = grouped.transpose(2, 3).contiguous()
        for index, length in enumerate(self._lengths):
            torch.bmm(keys[index], queries[index], out=flipped[index, :, :length])
        return flipped.transpose(2, 3).contiguous()

    def _hidden_from(self, window: int | None) -> torch.Tensor:
        """`[segments, 1, 1, longest]`: what a segment's row does not see."""
        if window not in self._hidden:
            age = self._positions - torch.arange(self._longest)
            hidden = (age < 0) | (age >= (window or self._longest))
            self._hidden[window] = hidden[:, None, None]
        return self._hidden[window]


def _weighted(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`[kv_heads, group, head_dim]` of one segment; weights behind its `[kv_heads, tokens, head_dim]` are zero."""
    chunk = CHUNK_TOKENS[weights.dtype]
    parts = torch.split(weights[..., : values.shape[1]], chunk, dim=2)
    return sum_in_order(
        [torch.bmm(part, value) for part, value in zip(parts, torch.split(values, chunk, dim=1), strict=True)]
    )
