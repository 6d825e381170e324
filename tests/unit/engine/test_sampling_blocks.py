"""Argmax and largest logits by block peaks against the plain operations."""

from __future__ import annotations

import pytest
import torch

from shared.engine.sampling.blocks import argmax, best_logprobs, block_peaks, in_blocks, largest

VOCABS = [1, 63, 64, 65, 5000, 64 * 100]


def logits_of(vocab: int) -> torch.Tensor:
    return torch.randn(7, vocab, generator=torch.Generator().manual_seed(vocab))


@pytest.mark.parametrize("vocab", VOCABS)
def test_argmax_is_argmax(vocab: int) -> None:
    logits = (logits_of(vocab) * 2).round()
    blocks = in_blocks(logits)
    assert argmax(blocks, block_peaks(blocks)) == logits.argmax(1).tolist()


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("count", [1, 20, 64])
def test_largest_is_topk(vocab: int, count: int) -> None:
    logits = logits_of(vocab)
    blocks = in_blocks(logits)
    values, ids = largest(blocks, block_peaks(blocks), min(count, vocab))
    expected = logits.topk(min(count, vocab), dim=1)
    assert torch.equal(values, expected.values)
    assert torch.equal(ids, expected.indices)


@pytest.mark.parametrize("vocab", VOCABS)
def test_best_logprobs_are_those_of_log_softmax(vocab: int) -> None:
    logits = logits_of(vocab)
    expected = (logits / 0.7).log_softmax(1).amax(1, keepdim=True)
    torch.testing.assert_close(best_logprobs(in_blocks(logits), torch.full((7, 1), 0.7)), expected)
