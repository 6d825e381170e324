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
    tops = peaks.amax(1).tolist()
    bad = [row for row, top in enumerate(tops) if not math.isfinite(top)]
    if bad:
        raise NonFiniteLogits(bad, [tops[row] for row in bad])


def argmax(blocks: torch.Tensor, peaks: torch.Tensor) -> list[int]:
    """The id of each row's largest logit, the lowest id where several are largest."""
    best = peaks.argmax(1)
    lanes = blocks[torch.arange(len(blocks), device=blocks.device), best].argmax(1)
    ids: list[int] = (best * BLOCK_TOKENS + lanes).tolist()
    return ids
