"""The draw itself: Gumbel-max, as a race of exponentials that reads only the blocks which can win.

The token with the largest `logit / temperature - log(exponential)` is distributed as softmax(logits / temperature)
(Gumbel-max; Maddison, Tarlow, Minka, "A* Sampling", NeurIPS 2014, whose search by bounds this is, in one level). A
block's peak and its smallest exponential bound what any of its tokens can score, so most blocks are never looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from shared.engine.sampling.noise import BLOCK_TOKENS, block_exponentials, block_minima
from shared.engine.sampling.state import SamplerState

_LIKELY_BLOCKS = 16
_ROUNDING = 1e-9


def draw(blocks: torch.Tensor, peaks: torch.Tensor, cutoffs: torch.Tensor, states: Sequence[SamplerState]) -> list[int]:
    """One token id per row, among those whose logit is at least the row's cutoff.

    `blocks` [rows, blocks, BLOCK_TOKENS] float32 before temperature, `peaks` [rows, blocks], `cutoffs` [rows].
    """
    race = _Race(blocks, peaks, cutoffs, states)
    everything = torch.arange(peaks.shape[1], device=peaks.device)
    rows = torch.arange(len(states), device=peaks.device)
    if len(everything) <= _LIKELY_BLOCKS:
        return _ids(race.winners(rows, everything.expand(len(rows), -1))[0])
    likely = race.bounds.topk(_LIKELY_BLOCKS + 1, dim=1)
    winners, scores = race.winners(rows, likely.indices[:, :-1])
    unproven = rows[scores <= likely.values[:, -1] + _ROUNDING]
    if len(unproven):
        bounds = race.bounds[unproven]
        contenders = int((bounds >= scores[unproven, None] - _ROUNDING).sum(1).max())
        winners[unproven] = race.winners(unproven, bounds.topk(contenders, dim=1).indices)[0]
    return _ids(winners)


def _ids(winners: torch.Tensor) -> list[int]:
    ids: list[int] = winners.tolist()
    return ids


class _Race:
    """The noise of each row, and what its blocks (`bounds` [rows, blocks]) and tokens score."""

    def __init__(
        self, blocks: torch.Tensor, peaks: torch.Tensor, cutoffs: torch.Tensor, states: Sequence[SamplerState]
    ) -> None:
        device = blocks.device
        self._blocks, self._cutoffs = blocks, cutoffs
        self._temperatures = torch.tensor([s.temperature for s in states], device=device, dtype=torch.float64)
        self._keys = torch.tensor([state.stream_key for state in states], device=device)
        self._minima, self._first = block_minima(self._keys, peaks.shape[1])
        reach = (peaks / self._temperatures[:, None]).masked_fill_(peaks < cutoffs[:, None], -math.inf)
        self.bounds = reach - self._minima.log()

    def winners(self, rows: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The token with the best score in the blocks `chosen` [n, m] of `rows` [n]: ids and scores, both [n]."""
        at = (rows[:, None], chosen)
        noise = block_exponentials(self._keys[rows], chosen, self._minima[at], self._first[at])
        logits = self._blocks[at]
        scores = logits / self._temperatures[rows, None, None] - noise.log_()
        scores.masked_fill_(logits < self._cutoffs[rows, None, None], -math.inf)
        best = scores.flatten(1).max(1)
        winner = chosen.gather(1, (best.indices // BLOCK_TOKENS)[:, None]).squeeze(1)
        return winner * BLOCK_TOKENS + best.indices % BLOCK_TOKENS, best.values
