"""Logits in blocks, and each block's largest: what makes argmax and draws cheap on a large vocabulary.

The peaks of 64-token blocks are one vectorised pass; argmax over them and inside one block is far cheaper on a CPU
than argmax over the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from shared.engine.sampling.noise import BLOCK_TOKENS
from shared.errors import WorkerFailed

_LOGITS_AT_ONCE = 200_000


class NonFiniteLogits(WorkerFailed):
    """Logits of `rows` hold NaN or +inf, or nothing that can be drawn."""

    def __init__(self, rows: Sequence[int], peaks: Sequence[float]) -> None:
        named = ", ".join(f"row {row} (largest logit {peak})" for row, peak in zip(rows, peaks, strict=True))
        super().__init__(f"the model's logits are not finite: {named}")
        self.rows = tuple(rows)


def in_blocks(logits: torch.Tensor) -> torch.Tensor:
    """`logits` [rows, vocab] as float32 [rows, blocks, BLOCK_TOKENS], the last block filled up with -inf.

    Shares the memory of `logits` where it can.
    """
    vocab = logits.shape[1]
    missing = -vocab % BLOCK_TOKENS
    wide = logits.float()
    if missing:
        wide = torch.nn.functional.pad(wide, (0, missing), value=-math.inf)
    return wide.reshape(len(wide), -1, BLOCK_TOKENS)


def block_peaks(blocks: torch.Tensor) -> torch.Tensor:
    """The largest logit of each block [rows, blocks]; NaN where a block holds one."""
    return blocks.amax(2)


def check_finite(peaks: torch.Tensor) -> None:
    """Raises NonFiniteLogits for rows whose largest logit is not finite, NaN anywhere in the row included."""
    raise_unless_finite(peaks.amax(1).tolist())


def raise_unless_finite(tops: Sequence[float]) -> None:
    """Raises NonFiniteLogits for rows whose largest logit, in `tops`, is not finite."""
    bad = [row for row, top in enumerate(tops) if not math.isfinite(top)]
    if bad:
        raise NonFiniteLogits(bad, [tops[row] for row in bad])


def argmax(blocks: torch.Tensor, peaks: torch.Tensor) -> list[int]:
    """The id of each row's largest logit, the lowest id where several are largest."""
    ids: list[int] = largest_ids(blocks, peaks).tolist()
    return ids


def largest_ids(blocks: torch.Tensor, peaks: torch.Tensor) -> torch.Tensor:
    """`argmax`, left on the device: [rows] int64."""
    best = peaks.argmax(1)
    lanes = blocks[torch.arange(len(blocks), device=blocks.device), best].argmax(1)
    return best * BLOCK_TOKENS + lanes


def greedy(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of `logits` [rows, vocab] the id of its largest logit and that logit, left on the device.

    Finite is what has to be checked before they count: NaN anywhere in a row is its largest.
    """
    blocks = in_blocks(logits)
    peaks = block_peaks(blocks)
    return largest_ids(blocks, peaks), peaks.amax(1)


def largest(blocks: torch.Tensor, peaks: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest logits of each row, best first: values and token ids, both [rows, count].

    They are in the `count` blocks with the largest peaks. Which of tied tokens comes last is not defined.
    """
    chosen = peaks.topk(min(count, peaks.shape[1]), dim=1).indices
    rows = torch.arange(len(blocks), device=blocks.device)[:, None]
    best = blocks[rows, chosen].flatten(1).topk(count, dim=1)
    ids = chosen.gather(1, best.indices // BLOCK_TOKENS) * BLOCK_TOKENS + best.indices % BLOCK_TOKENS
    return best.values, ids


def best_logprobs(blocks: torch.Tensor, temperatures: torch.Tensor | None = None) -> torch.Tensor:
    """The log-probability of each row's largest logit at its temperature ([rows, 1]; None: 1): [rows, 1] float32.

    By `log_softmax`, whose result for a row does not depend on the other rows, and a few rows at a time, so that the
    temporaries stay in the cache.
    """
    logits = blocks.flatten(1)
    step = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    parts = []
    for start in range(0, len(logits), step):
        part = logits[start : start + step]
        scaled = part if temperatures is None else part / temperatures[start : start + step]
        parts.append(scaled.log_softmax(1).amax(1, keepdim=True))
    return torch.cat(parts)
