"""Changes to logits before the draw: logit_bias, the min_tokens ban, repetition, presence and frequency penalties.

Only the entries concerned are read and written, all rows' in one call each; a row without adjustments costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from shared.engine.sampling.state import SamplerState

Ids = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Entries = tuple[Ids, Values]


def adjust(logits: torch.Tensor, rows: Sequence[int], states: Sequence[SamplerState]) -> None:
    """Adjust `logits` [rows, vocab] (float32, contiguous) in place, at `rows` only, in the order the steps stand here.

    `states` are those of all rows of the batch.
    """
    flat = logits.view(-1)
    for entries_of, apply in _STEPS:
        parts = [(row * logits.shape[1], entries_of(states[row])) for row in rows]
        ids = np.concatenate([offset + ids for offset, (ids, _) in parts])
        if ids.size:
            index = torch.from_numpy(ids).to(logits.device)
            values = torch.from_numpy(np.concatenate([values for _, (_, values) in parts])).to(logits.device)
            flat[index] = apply(flat[index], values)


def _bias(state: SamplerState) -> Entries:
    return state.bias_ids, state.bias_values


def _ban(state: SamplerState) -> Entries:
    return state.banned_ids, np.full(state.banned_ids.size, -math.inf, dtype=np.float32)


def _repetition(state: SamplerState) -> Entries:
    if state.seen_counts is None:
        return _NOTHING
    ids = state.seen_counts.ids
    return ids, np.full(ids.size, state.sampling.repetition_penalty, dtype=np.float32)


def _presence_frequency(state: SamplerState) -> Entries:
    counted = state.generated_counts
    if counted is None:
        return _NOTHING
    penalties = state.sampling.presence_penalty + state.sampling.frequency_penalty * counted.counts
    return counted.ids, penalties.astype(np.float32)


def _penalize(scores: torch.Tensor, penalties: torch.Tensor) -> torch.Tensor:
    """As in Keskar et al., "CTRL", 2019, and transformers' RepetitionPenaltyLogitsProcessor."""
    return torch.where(scores < 0, scores * penalties, scores / penalties)


_NOTHING: Entries = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
_STEPS: tuple[tuple[Callable[[SamplerState], Entries], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]], ...] = (
    (_bias, torch.add),
    (_ban, torch.add),
    (_repetition, _penalize),
    (_presence_frequency, torch.sub),
)
