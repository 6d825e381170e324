"""A sequence's KV as one tensor, however its blocks lie."""

from __future__ import annotations

import torch

from shared.engine.kv_memory import KvSpace


def kv_of(space: KvSpace) -> torch.Tensor:
    """A copy: `[layers, 2, kv_heads, capacity, head_dim]`."""
    return torch.stack([space.gather(layer, len(space.numbers)) for layer in range(len(space.arena))])


def fill_kv(space: KvSpace, kv: torch.Tensor) -> None:
    """The inverse of `kv_of`."""
    blocks = kv.view(*kv.shape[:3], len(space.numbers), -1, kv.shape[4]).permute(0, 2, 3, 1, 4, 5)
    space.arena[:, :, list(space.numbers)] = blocks
