"""The arena as the paged kernels and transfers see it, whatever order its dimensions lie in. One place knows that."""

from __future__ import annotations

import torch


def paged_view(arena: torch.Tensor) -> torch.Tensor:
    """`KvMemory.arena` as `[layers, blocks, 2 (k|v), kv_heads, BLOCK_TOKENS, head_dim]`.

    The same memory; the last two dimensions are contiguous.
    """
    return arena.permute(0, 2, 3, 1, 4, 5)
