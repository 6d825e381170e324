"""The noise: equal to its published definition, well distributed, uncorrelated between streams."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.engine.sampling.noise import (
    BLOCK_TOKENS,
    block_exponentials,
    block_minima,
    exponentials,
    mix,
    mix_word,
    stream_key,
    words_at,
)

BLOCKS = 40


def noise_of(seeds: list[int], positions: list[int], blocks: int = BLOCKS) -> torch.Tensor:
    """All exponentials [rows, blocks * BLOCK_TOKENS] of one stream per (seed, position)."""
    keys = torch.tensor([stream_key(seed, position) for seed, position in zip(seeds, positions, strict=True)])
    minima, first = block_minima(keys, blocks)
    ids = torch.arange(blocks).expand(len(keys), -1)
    return block_exponentials(keys, ids, minima, first).flatten(1)


def kolmogorov_smirnov(uniforms: torch.Tensor) -> float:
    """sqrt(n) times the largest distance to the uniform distribution; above 1.95 in one of 1,000 fair samples."""
    ordered = uniforms.flatten().sort().values
    n = len(ordered)
    grid = torch.arange(n + 1, dtype=torch.float64) / n
    return math.sqrt(n) * float(torch.maximum((grid[1:] - ordered).max(), (ordered - grid[:-1]).max()))


def chi_square_z(counts: torch.Tensor) -> float:
    """How many standard deviations the chi-square statistic of equally likely `counts` is from its mean."""
    expected = counts.sum() / len(counts)
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


def test_words_are_the_published_splitmix64_sequence() -> None:
    # splitmix64.c (Vigna) with state 1234567.
    words = words_at(torch.tensor([1234567]), torch.arange(5)).tolist()
    assert [word % 2**64 for word in words] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=70))
def test_tensor_arithmetic_wraps_like_unsigned_words(words: list[int]) -> None:
    signed = torch.tensor([word - 2**64 if word >= 2**63 else word for word in words])
    assert [word % 2**64 for word in mix(signed).tolist()] == [mix_word(word) for word in words]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31))
def test_a_key_is_an_int64(seed: int, position: int) -> None:
    assert torch.tensor([stream_key(seed, position)]).dtype == torch.int64


def test_extreme_words_give_finite_positive_exponentials() -> None:
    values = exponentials(torch.tensor([0, -1, 2**63 - 1, -(2**63)]))
    assert values.isfinite().all()
    assert (values > 0).all()


def test_exponentials_are_exponential() -> None:
    noise = noise_of([1] * 50, list(range(50)))
    assert kolmogorov_smirnov((-noise).exp()) < 1.95


def test_exponentials_of_one_token_over_positions_are_exponential() -> None:
    noise = noise_of([7] * 20_000, list(range(20_000)), blocks=1)
    for token in (0, 1, 63):
        assert kolmogorov_smirnov((-noise[:, token]).exp()) < 1.95


def test_exponentials_of_one_token_over_seeds_are_exponential() -> None:
    noise = noise_of(list(range(20_000)), [0] * 20_000, blocks=1)
    assert kolmogorov_smirnov((-noise[:, 5]).exp()) < 1.95


def test_uniforms_fill_bins_evenly() -> None:
    uniforms = (-noise_of([3] * 100, list(range(100)))).exp().flatten()
    assert abs(chi_square_z(torch.histc(uniforms, bins=1000, min=0, max=1).double())) < 4


def test_each_token_of_a_block_is_equally_often_first() -> None:
    _, first = block_minima(torch.tensor([stream_key(0, position) for position in range(2000)]), 16)
    assert abs(chi_square_z(torch.bincount(first.flatten(), minlength=BLOCK_TOKENS).double())) < 4


def test_a_block_minimum_is_the_minimum_of_its_block() -> None:
    keys = torch.tensor([stream_key(4, position) for position in range(10)])
    minima, first = block_minima(keys, BLOCKS)
    noise = block_exponentials(keys, torch.arange(BLOCKS).expand(10, -1), minima, first)
    assert torch.equal(noise.min(2).values, minima)
    assert torch.equal(noise.argmin(2), first)


@pytest.mark.parametrize(
    ("seeds", "positions"), [([0, 1], [5, 5]), ([9, 9], [0, 1]), ([0, 2**62], [1, 1]), ([5, 6], [6, 5])]
)
def test_streams_are_uncorrelated(seeds: list[int], positions: list[int]) -> None:
    uniforms = (-noise_of(seeds, positions, blocks=1000)).exp()
    n = uniforms.shape[1]
    assert abs(float(torch.corrcoef(uniforms)[0, 1])) < 4 / math.sqrt(n)
    shifted = torch.stack((uniforms[0, :-1], uniforms[1, 1:]))
    assert abs(float(torch.corrcoef(shifted)[0, 1])) < 4 / math.sqrt(n)


def test_tokens_of_a_block_are_uncorrelated_over_positions() -> None:
    uniforms = (-noise_of([2] * 20_000, list(range(20_000)), blocks=2)).exp()
    correlations = torch.corrcoef(uniforms[:, [0, 1, 31, 63, 64, 127]].T) - torch.eye(6, dtype=torch.float64)
    assert float(correlations.abs().max()) < 4.5 / math.sqrt(20_000)


def test_noise_of_a_token_does_not_depend_on_what_else_is_computed() -> None:
    alone = noise_of([11], [3], blocks=BLOCKS)
    among = noise_of([1, 11, 2], [3, 3, 3], blocks=BLOCKS + 7)
    assert torch.equal(among[1, : alone.shape[1]], alone[0])


def test_noise_is_pinned() -> None:
    # Workers of different versions must draw the same tokens: a change here is a change of the protocol.
    noise = noise_of([42], [17], blocks=2)[0]
    pinned = [1.0743878054742408, 0.07148554511037206, 0.6777613469013695, 0.1428884466857966, 0.07235701425787258]
    assert noise[[0, 1, 63, 64, 127]].tolist() == pytest.approx(pinned, rel=1e-12)
