"""top_k, top_p and min_p: the kept set, and that every way to search for it gives the same."""

from __future__ import annotations

import pytest
import sampling_reference as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core import SamplingParams
from shared.engine.sampling import SamplerState, truncate
from shared.engine.sampling.blocks import block_peaks, in_blocks

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 1000]),
    top_p=st.sampled_from([0.0, 0.03, 0.31, 0.77, 0.951, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.21, 1.0]),
)
WIDE = 20_000


def cutoffs_of(logits: torch.Tensor, samplings: list[SamplingParams]) -> torch.Tensor:
    blocks = in_blocks(logits)
    states = [SamplerState(sampling, [1], 0, logits.shape[1], ()) for sampling in samplings]
    return truncate.cutoffs(blocks, block_peaks(blocks), states)


def kept_of(logits: torch.Tensor, sampling: SamplingParams) -> set[int]:
    return set((logits >= cutoffs_of(logits[None], [sampling])[0]).nonzero().flatten().tolist())


def peaked_logits(rows: int, decay: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of `WIDE` logits that fall with the logarithm of a random rank, like a language model's."""
    generator = torch.Generator().manual_seed(rows)
    ranks = torch.rand(rows, WIDE, generator=generator).argsort(1).float() + 1
    return (torch.randn(rows, WIDE, generator=generator) - decay * ranks.log()).to(dtype).float()


# Derandomized: a probability within rounding of a limit may fall on either side of it.
@settings(deadline=None, max_examples=300, derandomize=True)
@given(st.integers(1, 200), st.integers(0, 2**31), st.floats(0.1, 6), st.booleans(), SAMPLING)
def test_the_kept_set_is_the_reference(
    vocab: int, seed: int, scale: float, tied: bool, sampling: SamplingParams
) -> None:
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * scale
    logits = logits.round() if tied else logits
    assert kept_of(logits, sampling) == reference.kept(logits.tolist(), sampling)


def test_top_p_keeps_the_token_that_reaches_p_and_no_more() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()
    assert kept_of(logits, SamplingParams(top_p=0.7499)) == {0, 1}
    assert kept_of(logits, SamplingParams(top_p=0.7501)) == {0, 1, 2}
    assert kept_of(logits, SamplingParams(top_p=0.0)) == {0}


def test_top_p_counts_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    assert kept_of(logits, SamplingParams(top_p=0.55)) == {0, 1}
    assert kept_of(logits, SamplingParams(top_p=0.55, top_k=2)) == {0}


def test_what_ties_with_the_last_token_is_kept() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0, 0.0])
    assert kept_of(logits, SamplingParams(top_k=2)) == {1, 2, 3, 4}
    assert kept_of(logits, SamplingParams(top_p=0.6)) == {1, 2, 3, 4}


def test_masked_logits_do_not_disturb_the_others() -> None:
    masked = torch.full((7_000,), float("-inf"))
    logits = torch.cat((torch.tensor([0.5, 0.25, 0.125, 0.125]).log(), masked))
    assert kept_of(logits, SamplingParams(top_p=0.7, top_k=100)) == {0, 1}
    assert kept_of(logits, SamplingParams(top_p=0.7)) == {0, 1}


def test_min_p_is_relative_to_the_largest_probability() -> None:
    logits = torch.tensor([0.6, 0.3, 0.061, 0.039]).log()
    assert kept_of(logits, SamplingParams(min_p=0.1)) == {0, 1, 2}
    assert kept_of(logits, SamplingParams(min_p=0.1, temperature=0.5)) == {0, 1}


def test_nothing_is_cut_by_default() -> None:
    assert cutoffs_of(torch.randn(1, 100), [SamplingParams()]).tolist() == [float("-inf")]


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.3, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_selection_proves_what_the_whole_sort_finds(
    decay: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplings = [
        SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k)
        for temperature in (0.6, 1.0, 1.5)
        for top_p in (0.5, 0.9, 0.99, 1.0)
        for top_k in (0, 1, 50, 64, 65, 600)
    ]
    logits = peaked_logits(len(samplings), decay, dtype=dtype)
    found = cutoffs_of(logits, samplings)
    monkeypatch.setattr(truncate, "_selections", lambda _: [truncate._select_all])
    assert torch.equal(found, cutoffs_of(logits, samplings))


def test_a_peaked_row_is_never_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("sorted the whole row")

    monkeypatch.setattr(truncate, "_select_all", refuse)
    cutoffs_of(peaked_logits(4, 2.5), [SamplingParams(top_p=0.95)] * 4)


def test_a_cutoff_does_not_depend_on_the_other_rows() -> None:
    logits = peaked_logits(6, 1.0)
    samplings = [SamplingParams(top_p=p, top_k=k) for p in (0.3, 0.9, 1.0) for k in (0, 30)]
    together = cutoffs_of(logits, samplings)
    alone = [cutoffs_of(logits[row : row + 1], [sampling])[0] for row, sampling in enumerate(samplings)]
    assert torch.equal(together, torch.stack(alone))
