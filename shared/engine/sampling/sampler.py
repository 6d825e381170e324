"""One next token per row: the order of the steps, and which rows each step concerns.

Raw logits -> log-probabilities to report -> bias, ban, penalties -> argmax, or temperature, top_k, top_p, min_p, draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shared.core import SampledToken, TokenLogprob
from shared.engine.sampling.adjust import adjust
from shared.engine.sampling.blocks import argmax, block_peaks, check_finite, in_blocks
from shared.engine.sampling.draw import draw
from shared.engine.sampling.logprobs import Logprobs
from shared.engine.sampling.state import SamplerState
from shared.engine.sampling.truncate import cutoffs


def sample(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[SampledToken]:
    """The next token of each row of `logits` [rows, vocab] (any float dtype, any device; not modified).

    `states[i]` belongs to row i; nothing is appended to it. Raises NonFiniteLogits, which names the rows.
    """
    if not states:
        return []
    with torch.inference_mode():
        token_ids, logprobs = _sample(logits, states)
    return [SampledToken(token_id, logprobs.get(row)) for row, token_id in enumerate(token_ids)]


def _sample(logits: torch.Tensor, states: Sequence[SamplerState]) -> tuple[list[int], dict[int, TokenLogprob]]:
    blocks = in_blocks(logits)
    peaks = block_peaks(blocks)
    check_finite(peaks)
    wanted = {row: count for row, state in enumerate(states) if (count := state.sampling.logprobs) is not None}
    logprobs = Logprobs(blocks, peaks, wanted, logits.shape[1]) if wanted else None
    adjusted = [row for row, state in enumerate(states) if state.adjusts_logits]
    if adjusted:
        blocks = blocks.clone() if blocks.data_ptr() == logits.data_ptr() else blocks
        adjust(blocks.flatten(1), adjusted, states)
        peaks[adjusted] = block_peaks(blocks[adjusted])
        check_finite(peaks)
    token_ids = _choose(blocks, peaks, states)
    return token_ids, logprobs.of(logits, token_ids) if logprobs else {}


def _choose(blocks: torch.Tensor, peaks: torch.Tensor, states: Sequence[SamplerState]) -> list[int]:
    drawn = [row for row, state in enumerate(states) if not state.greedy]
    if not drawn:
        return argmax(blocks, peaks)
    if len(drawn) == len(states):
        return draw(blocks, peaks, cutoffs(blocks, peaks, states), states)
    token_ids = argmax(blocks, peaks)
    some, some_peaks, some_states = blocks[drawn], peaks[drawn], [states[row] for row in drawn]
    for row, token_id in zip(
        drawn, draw(some, some_peaks, cutoffs(some, some_peaks, some_states), some_states), strict=True
    ):
        token_ids[row] = token_id
    return token_ids
