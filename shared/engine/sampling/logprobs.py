"""Log-probabilities to report: of the chosen token and the likeliest ones, from the model's own logits in float32.

Taken before bias, penalties and temperature; only for rows that ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.core import TokenLogprob
from shared.engine.sampling.blocks import best_logprobs, largest

_TOP = 32


class Logprobs:
    """What some rows of a batch report, captured before anything changes their logits."""

    def __init__(self, blocks: torch.Tensor, peaks: torch.Tensor, wanted: dict[int, int], vocab: int) -> None:
        """`wanted` maps a row to how many alternatives it reports; `blocks` and `peaks` as in `blocks.py`."""
        self._wanted = wanted
        rows = list(wanted)
        some = blocks if len(rows) == len(blocks) else blocks[rows]
        # At least `_TOP` are searched: which of tied tokens are found must not depend on what other rows ask for.
        found = min(max(*wanted.values(), _TOP), vocab)
        values, ids = largest(some, peaks[rows], found if any(wanted.values()) else 1)
        self._best = values[:, :1]
        self._best_logprobs = best_logprobs(some)
        self._top_ids, self._top_logprobs = ids.tolist(), self._logprobs(values).tolist()

    def of(self, logits: torch.Tensor, token_ids: Sequence[int]) -> dict[int, TokenLogprob]:
        """By row: the log-probability of its token in `token_ids`, and its list of alternatives.

        `logits` [rows, vocab] are the model's, `token_ids` one for each row of the batch.
        """
        rows = list(self._wanted)
        chosen = self._logprobs(logits[rows, [token_ids[row] for row in rows]].float()[:, None]).squeeze(1).tolist()
        return {row: TokenLogprob(chosen[slot], self._top(slot, self._wanted[row])) for slot, row in enumerate(rows)}

    def _logprobs(self, logits: torch.Tensor) -> torch.Tensor:
        return logits - self._best + self._best_logprobs

    def _top(self, slot: int, count: int) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens of a row, best first, lower ids first among equals."""
        pairs = zip(self._top_ids[slot], self._top_logprobs[slot], strict=True)
        return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count])
