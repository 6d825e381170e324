"""The draw: distributed as softmax, and equal to the race of all tokens that it does not run."""

from __future__ import annotations

import math

import pytest
import sampling_reference as reference
import torch

from shared.core import SamplingParams
from shared.engine.sampling import SamplerState, sample
from shared.engine.sampling.blocks import block_peaks, in_blocks
from shared.engine.sampling.draw import draw
from shared.engine.sampling.noise import block_exponentials, block_minima, stream_key

DRAWS = 20_000


def draws_of(logits: torch.Tensor, sampling: SamplingParams, *, draws: int = DRAWS) -> torch.Tensor:
    """How often each token is drawn from one row of logits, over `draws` seeds."""
    rows = logits.expand(draws, -1)
    states = [
        SamplerState(SamplingParams(**_fields(sampling) | {"seed": n}), [1], 0, rows.shape[1], ()) for n in range(draws)
    ]
    tokens = torch.tensor([token.token_id for token in sample(rows, states)])
    return torch.bincount(tokens, minlength=rows.shape[1])


def _fields(sampling: SamplingParams) -> dict[str, object]:
    return {name: getattr(sampling, name) for name in sampling.__struct_fields__}


def assert_drawn_with(counts: torch.Tensor, probabilities: list[float]) -> None:
    """Nothing drawn that has no probability, and Pearson's chi-square below what one fair sample in 30,000 exceeds.

    By Wilson and Hilferty's approximation: the cube root of chi-square over its degrees of freedom is normal.
    """
    total = float(counts.sum())
    possible = [(count, p) for count, p in zip(counts.tolist(), probabilities, strict=True) if p > 0]
    assert sum(count for count, _ in possible) == total
    statistic = sum((count - total * p) ** 2 / (total * p) for count, p in possible)
    freedom = len(possible) - 1
    variance = 2 / (9 * freedom)
    assert ((statistic / freedom) ** (1 / 3) - 1 + variance) / math.sqrt(variance) < 4


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.9])
def test_frequencies_are_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, 1.0])
    counts = draws_of(logits, SamplingParams(temperature=temperature))
    assert_drawn_with(counts, reference.softmax(logits.tolist(), temperature))


def test_frequencies_are_softmax_over_many_blocks() -> None:
    logits = torch.randn(64 * 30, generator=torch.Generator().manual_seed(0)) * 0.5
    assert_drawn_with(draws_of(logits, SamplingParams()), reference.softmax(logits.tolist()))


def test_frequencies_are_softmax_of_what_is_kept() -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0])
    sampling = SamplingParams(top_k=5, top_p=0.9, temperature=1.2)
    kept = reference.kept(logits.tolist(), sampling)
    weights = [math.exp(logit / 1.2) if token in kept else 0.0 for token, logit in enumerate(logits.tolist())]
    assert_drawn_with(draws_of(logits, sampling), [weight / sum(weights) for weight in weights])


def test_frequencies_over_positions_are_softmax() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0])
    state = SamplerState(SamplingParams(seed=3), [1], 0, 3, ())
    counts = torch.zeros(3)
    for _ in range(3_000):
        token = sample(logits[None], [state])[0].token_id
        counts[token] += 1
        state.append(token)
    assert_drawn_with(counts, reference.softmax(logits.tolist()))


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("vocab", [3, 64, 1000, 64 * 17, 20_000])
def test_a_draw_is_won_by_the_best_of_all_tokens(vocab: int, spread: float) -> None:
    rows = 20
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    states = [SamplerState(SamplingParams(seed=row, temperature=0.9), [1] * 7, 0, vocab, ()) for row in range(rows)]
    blocks = in_blocks(logits)
    keys = torch.tensor([stream_key(row, 7) for row in range(rows)])
    minima, first = block_minima(keys, blocks.shape[1])
    noise = block_exponentials(keys, torch.arange(blocks.shape[1]).expand(rows, -1), minima, first)
    scores = (blocks.double() / 0.9 - noise.log()).flatten(1)
    uncut = torch.full((rows,), -math.inf)
    assert draw(blocks, block_peaks(blocks), uncut, states) == scores.argmax(1).tolist()


def test_truncation_changes_no_noise() -> None:
    # The winner of all tokens wins among fewer of them too, if it is still there.
    logits = torch.randn(50, 3000, generator=torch.Generator().manual_seed(1)) * 2
    plain = sample(logits, [SamplerState(SamplingParams(seed=n), [1], 0, 3000, ()) for n in range(50)])
    cut = sample(logits, [SamplerState(SamplingParams(seed=n, top_k=200), [1], 0, 3000, ()) for n in range(50)])
    best = logits.topk(200).indices.tolist()
    stayed = [(a, b) for row, (a, b) in enumerate(zip(plain, cut, strict=True)) if a.token_id in best[row]]
    assert len(stayed) > 10
    assert all(a == b for a, b in stayed)
