"""top_k, top_p and min_p as one number per row: the smallest logit that may still be drawn.

Tokens tied with the last one kept are kept as well (as top_k does in vLLM and transformers), so that the kept set is
a function of the values alone and no sort order, device or batch can change it.

Sorting a whole vocabulary takes as long as a small model's layers. So the search begins with the tokens of the blocks
that have the largest peaks, and a row's answer counts only where it is proven: above everything that was left out.
Rows without proof are searched again in a larger selection, at last in the sorted row. All selections begin with the
same values in the same order, so the answer is the same whichever gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from shared.engine.sampling.blocks import best_logprobs
from shared.engine.sampling.noise import BLOCK_TOKENS
from shared.engine.sampling.state import SamplerState

_PEAK_BLOCKS = 64
_FEW = 64
_MANY = 512


class _Limits(NamedTuple):
    """What cuts each row, all [rows, 1] float64 but `top_k` (int64). `top_k` 0 is off, and so is `top_p` 1.

    `best_logprob` is the log-probability of the largest logit `best` at `temperature`, with nothing cut; 0 with top_k,
    where it is not needed.
    """

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    best: torch.Tensor
    best_logprob: torch.Tensor

    def at(self, rows: torch.Tensor) -> _Limits:
        return _Limits(*(values[rows] for values in self))


def cutoffs(blocks: torch.Tensor, peaks: torch.Tensor, states: Sequence[SamplerState]) -> torch.Tensor:
    """The smallest logit each row may draw: [rows] float32, -inf where nothing is cut.

    `blocks` [rows, blocks, BLOCK_TOKENS] are logits before temperature, `peaks` [rows, blocks] the largest of each.
    """
    result = _min_p_cutoffs(peaks, states)
    rows = [row for row, state in enumerate(states) if state.sampling.top_k > 0 or state.sampling.top_p < 1.0]
    if rows:
        index = torch.tensor(rows, device=blocks.device)
        chosen = blocks if len(rows) == len(states) else blocks[index]
        result[index] = torch.maximum(result[index], _search(chosen, peaks[index], [states[row] for row in rows]))
    return result


def _min_p_cutoffs(peaks: torch.Tensor, states: Sequence[SamplerState]) -> torch.Tensor:
    """A probability is at least `min_p` of the largest where its logit is within `-temperature * log(min_p)` of it."""
    if not any(state.sampling.min_p for state in states):
        return torch.full((len(states),), -math.inf, device=peaks.device)
    below = [s.temperature * math.log(s.sampling.min_p) if s.sampling.min_p else -math.inf for s in states]
    return peaks.amax(1) + torch.tensor(below, device=peaks.device)


def _search(blocks: torch.Tensor, peaks: torch.Tensor, states: Sequence[SamplerState]) -> torch.Tensor:
    limits = _limits(blocks, peaks, states)
    result = torch.full((len(states),), -math.inf, device=blocks.device)
    pending = torch.arange(len(states), device=blocks.device)
    for select in _selections(blocks):
        whole = len(pending) == len(states)
        values, floor = select(blocks, peaks) if whole else select(blocks[pending], peaks[pending])
        cuts = _cut(values, floor, limits if whole else limits.at(pending))
        result[pending] = cuts
        pending = pending[cuts <= floor]
        if not len(pending):
            break
    return result


def _limits(blocks: torch.Tensor, peaks: torch.Tensor, states: Sequence[SamplerState]) -> _Limits:
    device, width = blocks.device, blocks.shape[1] * BLOCK_TOKENS

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=device, dtype=torch.float64)[:, None]

    temperature = column([state.temperature for state in states])
    top_k = [state.sampling.top_k if state.sampling.top_k < width else 0 for state in states]
    best = peaks.amax(1, keepdim=True).double()
    best_logprob = torch.zeros_like(best)
    if any(state.sampling.top_p < 1.0 and not k for state, k in zip(states, top_k, strict=True)):
        uses_top_k = torch.tensor(top_k, device=device)[:, None] > 0
        best_logprob = best_logprobs(blocks, temperature.float()).double().masked_fill_(uses_top_k, 0.0)
    return _Limits(
        temperature=temperature,
        top_k=torch.tensor(top_k, device=device)[:, None],
        top_p=column([state.sampling.top_p for state in states]),
        best=best,
        best_logprob=best_logprob,
    )


def _cut(values: torch.Tensor, floor: torch.Tensor, limits: _Limits) -> torch.Tensor:
    """The cutoff that each row's largest logits `values` [rows, n], best first, prove.

    Nothing that is not among `values` is above `floor` [rows]. A result not above `floor` is not proven.
    """
    probabilities = ((values - limits.best) / limits.temperature + limits.best_logprob).exp()
    k_index = (limits.top_k - 1).clamp(0, values.shape[1] - 1)
    k_known = (limits.top_k > 0) & (limits.top_k <= values.shape[1])
    k_cut = values.gather(1, k_index).where(k_known, -math.inf)
    mass = (probabilities * (values >= k_cut)).cumsum(1)
    total = mass[:, -1:].where(limits.top_k > 0, 1.0)
    p_index = (mass < limits.top_p * total).sum(1, keepdim=True)
    p_known = (limits.top_p < 1.0) & (p_index < values.shape[1])
    p_cut = values.gather(1, p_index.clamp(max=values.shape[1] - 1)).where(p_known, -math.inf)
    k_unproven = (limits.top_k > 0) & (k_cut <= floor[:, None]) & (floor[:, None] > -math.inf)
    return torch.maximum(k_cut, p_cut).masked_fill_(k_unproven, -math.inf).squeeze(1)


_Selection = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _selections(blocks: torch.Tensor) -> list[_Selection]:
    """Ways to select a row's largest logits, cheap ones first; the last selects all."""
    found: list[_Selection] = []
    if blocks.shape[1] > _PEAK_BLOCKS:
        found.append(_select_in_peak_blocks)
    if blocks.shape[1] * BLOCK_TOKENS > _MANY:
        found.append(_select_many)
    return [*found, _select_all]


def _select_in_peak_blocks(blocks: torch.Tensor, peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    best = peaks.topk(_PEAK_BLOCKS + 1, dim=1)
    rows = torch.arange(len(blocks), device=blocks.device)[:, None]
    values = blocks[rows, best.indices[:, :-1]].flatten(1).topk(_FEW, dim=1).values
    return values, torch.maximum(values[:, -1], best.values[:, -1])


def _select_many(blocks: torch.Tensor, _peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values = blocks.flatten(1).topk(_MANY, dim=1).values
    return values, values[:, -1]


def _select_all(blocks: torch.Tensor, _peaks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits = blocks.flatten(1)
    if logits.device.type != "cpu":
        values = logits.sort(dim=1, descending=True).values
    else:  # NumPy sorts values on a CPU in less than half the time.
        values = torch.from_numpy(np.sort(-logits.numpy(), axis=1)).neg_()
    return values, torch.full((len(blocks),), -math.inf, device=blocks.device)
