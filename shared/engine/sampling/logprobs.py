"""Log-probabilities to report: of the chosen token and the likeliest ones, from the model's own logits in float32.

Taken before bias, penalties and temperature; only for rows that ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.core import TokenLogprob

_TOP = 32


class Logprobs:
    """The log-softmax of some rows of a batch, captured before anything changes their logits."""

    def __init__(self, logits: torch.Tensor, wanted: dict[int, int], vocab: int) -> None:
        """`logits` [rows, >= vocab] float32; `wanted` maps a row to how many alternatives it reports."""
        rows = list(wanted)
        self._wanted = wanted
        self._slots = {row: slot for slot, row in enumerate(rows)}
        self._logprobs = logits[rows, :vocab].log_softmax(1) if rows else logits[:0]

    def of(self, token_ids: Sequence[int]) -> dict[int, TokenLogprob]:
        """By row: the log-probability of its token in `token_ids` (one per row of the batch), and its top list."""
        if not self._wanted:
            return {}
        chosen_ids = torch.tensor([[token_ids[row]] for row in self._wanted], device=self._logprobs.device)
        chosen = self._logprobs.gather(1, chosen_ids).squeeze(1).tolist()
        top = self._top()
        return {
            row: TokenLogprob(chosen[slot], top[slot][:count]) for slot, (row, count) in enumerate(self._wanted.items())
        }

    def _top(self) -> list[tuple[tuple[int, float], ...]]:
        """The likeliest tokens of each row, best first, lower ids first among equals.

        Always at least `_TOP` are searched, so that a row's search does not depend on what other rows ask for.
        """
        most = max(self._wanted.values())
        if not most:
            return [()] * len(self._wanted)
        top = self._logprobs.topk(min(max(most, _TOP), self._logprobs.shape[1]), dim=1)
        pairs = (
            zip(ids, values, strict=True) for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        )
        return [tuple(sorted(row, key=lambda pair: (-pair[1], pair[0]))) for row in pairs]
