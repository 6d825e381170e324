"""Attention as its formula says, in float64."""

from __future__ import annotations

import torch

from shared.engine.attention import AttentionKind


def formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind) -> torch.Tensor:
    """One whole sequence, `[heads, tokens, head_dim]` each: `[tokens, heads, head_dim]`."""
    group = query.shape[0] // key.shape[0]
    key, value = key.double().repeat_interleave(group, 0), value.double().repeat_interleave(group, 0)
    scores = query.double() @ key.transpose(1, 2) * kind.scale
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    position = torch.arange(query.shape[1])
    age = position.unsqueeze(1) - position
    hidden = (age < 0) | (age >= (kind.window or 10**6))
    return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value).transpose(0, 1)
