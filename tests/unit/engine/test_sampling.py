"""`sample` as the engine calls it: mixed batches, greedy ties, log-probabilities, bad logits, batch invariance."""

from __future__ import annotations

import math

import pytest
import torch

from shared.core import SampledToken, SamplingParams
from shared.engine.sampling import NonFiniteLogits, SamplerState, sample
from shared.errors import WorkerFailed

VOCAB = 5000
GREEDY = SamplingParams(temperature=0.0)
KINDS = [
    GREEDY,
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=0.8, top_p=0.95),
    SamplingParams(seed=3, top_k=50),
    SamplingParams(seed=4, top_k=1),
    SamplingParams(seed=5, min_p=0.1, temperature=1.5),
    SamplingParams(seed=6, top_p=0.9, logprobs=5),
    SamplingParams(seed=7, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5),
    SamplingParams(temperature=0.0, logit_bias={7: 5.0}, logprobs=0),
    SamplingParams(seed=8, temperature=2.0, top_p=0.99, top_k=700, min_p=0.0001),
    SamplingParams(seed=9, min_tokens=100, stop_token_ids=(3, 4), logprobs=20),
]


def logits_of(rows: int, vocab: int = VOCAB, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    ranks = torch.rand(rows, vocab, generator=generator).argsort(1).float() + 1
    return (torch.randn(rows, vocab, generator=generator) - ranks.log()).to(dtype)


def state_of(sampling: SamplingParams, vocab: int = VOCAB, *, row: int = 0) -> SamplerState:
    return SamplerState(sampling, list(range(10 + row)), 3, vocab, (0,))


def test_greedy_takes_the_largest_and_the_lowest_id_on_ties() -> None:
    logits = torch.zeros(3, 300)
    logits[0, [70, 5, 200]] = 1.0
    logits[1, 299] = 1.0
    assert [token.token_id for token in sample(logits, [state_of(GREEDY, 300)] * 3)] == [5, 299, 0]


def test_top_k_of_one_is_greedy() -> None:
    logits = torch.zeros(1, 300)
    assert sample(logits, [state_of(SamplingParams(seed=4, top_k=1), 300)]) == [SampledToken(0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_greedy_is_argmax_of_any_dtype(dtype: torch.dtype) -> None:
    logits = logits_of(9, dtype=dtype)
    chosen = [token.token_id for token in sample(logits, [state_of(GREEDY)] * 9)]
    assert chosen == logits.float().argmax(1).tolist()


def test_a_vanishing_temperature_is_greedy() -> None:
    logits = logits_of(9)
    states = [state_of(SamplingParams(temperature=1e-300, top_p=0.9, seed=row)) for row in range(9)]
    assert [token.token_id for token in sample(logits, states)] == logits.argmax(1).tolist()


def test_no_rows() -> None:
    assert sample(torch.zeros(0, VOCAB), []) == []


@pytest.fixture(scope="module", params=[130, VOCAB])
def alone(request: pytest.FixtureRequest) -> tuple[torch.Tensor, list[SamplingParams], list[SampledToken]]:
    """33 rows of logits, their parameters, and the token of each when it is the only row."""
    vocab = request.param
    logits = logits_of(33, vocab, torch.bfloat16)
    kinds = [KINDS[row * 7 % len(KINDS)] for row in range(33)]
    tokens = [sample(logits[row : row + 1], [state_of(kind, vocab, row=row)])[0] for row, kind in enumerate(kinds)]
    return logits, kinds, tokens


@pytest.mark.parametrize("rows", range(1, 34))
def test_a_row_does_not_depend_on_the_others(
    rows: int, alone: tuple[torch.Tensor, list[SamplingParams], list[SampledToken]]
) -> None:
    logits, kinds, tokens = alone
    states = [state_of(kind, logits.shape[1], row=row) for row, kind in enumerate(kinds)]
    assert sample(logits[:rows], states[:rows]) == tokens[:rows]
    assert sample(logits[-rows:], states[-rows:]) == tokens[-rows:]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_does_not_depend_on_threads_and_place(threads: int) -> None:
    logits = logits_of(24)
    states = [state_of(KINDS[row % len(KINDS)], row=row) for row in range(24)]
    expected = sample(logits, states)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert sample(logits.flip(0), states[::-1])[::-1] == expected
    finally:
        torch.set_num_threads(before)


def test_the_same_seed_and_position_draw_the_same_and_others_do_not() -> None:
    logits = torch.zeros(4, VOCAB)
    base, other_seed = SamplingParams(seed=1), SamplingParams(seed=2)
    first, again, seeded, later = sample(
        logits, [state_of(base), state_of(base), state_of(other_seed), state_of(base, row=1)]
    )
    assert first == again
    assert len({first.token_id, seeded.token_id, later.token_id}) == 3


def test_appending_is_the_same_as_knowing_from_the_start() -> None:
    sampling = SamplingParams(seed=3, repetition_penalty=1.5, presence_penalty=1.0, frequency_penalty=0.3, min_tokens=5)
    grown = SamplerState(sampling, [1, 2, 3], 0, VOCAB, (0,))
    for token in (5, 6, 5):
        grown.append(token)
    known = SamplerState(sampling, [1, 2, 3, 5, 6, 5], 3, VOCAB, (0,))
    assert grown.known_tokens == known.known_tokens == 6
    for _ in range(20):
        (token,) = sample(logits_of(1), [grown])
        assert sample(logits_of(1), [known]) == [token]
        grown.append(token.token_id)
        known.append(token.token_id)


def test_logits_are_left_alone() -> None:
    logits = logits_of(len(KINDS))
    before = logits.clone()
    sample(logits, [state_of(kind) for kind in KINDS])
    assert torch.equal(logits, before)


def test_logits_may_be_a_strided_view() -> None:
    logits = logits_of(len(KINDS), VOCAB + 120)[:, :4992]
    states = [state_of(kind, 4992) for kind in KINDS]
    assert sample(logits, states) == sample(logits.contiguous(), states)


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = logits_of(1, dtype=torch.bfloat16)
    sampling = SamplingParams(seed=1, temperature=0.3, logit_bias={17: 100.0}, logprobs=3)
    (token,) = sample(logits, [state_of(sampling)])
    expected = logits.float().log_softmax(1)[0]
    best = expected.topk(3)
    assert token.token_id == 17
    assert token.logprob is not None
    assert token.logprob.logprob == pytest.approx(float(expected[17]), abs=1e-5)
    assert [token_id for token_id, _ in token.logprob.top] == best.indices.tolist()
    assert [logprob for _, logprob in token.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_logprobs_of_none_zero_and_some() -> None:
    none, zero, some = sample(
        logits_of(3), [state_of(SamplingParams(seed=1, logprobs=count)) for count in (None, 0, 4)]
    )
    assert none.logprob is None
    assert zero.logprob is not None
    assert zero.logprob.top == ()
    assert some.logprob is not None
    assert len(some.logprob.top) == 4


def test_tied_logprobs_are_listed_by_id() -> None:
    logits = torch.full((1, 300), -9.0)
    logits[0, [40, 10, 90, 20]] = 1.0
    (token,) = sample(logits, [state_of(SamplingParams(temperature=0.0, logprobs=3), 300)])
    assert token.logprob is not None
    assert [token_id for token_id, _ in token.logprob.top] == [10, 20, 40]


def test_more_logprobs_than_tokens() -> None:
    (token,) = sample(torch.zeros(1, 3), [state_of(SamplingParams(logprobs=20), 3)])
    assert token.logprob is not None
    assert len(token.logprob.top) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [GREEDY, KINDS[2]])
def test_a_bad_logit_fails_by_row(bad: float, kind: SamplingParams) -> None:
    logits = logits_of(5)
    logits[3, 1234] = bad
    with pytest.raises(WorkerFailed, match="row 3") as failure:
        sample(logits, [state_of(kind)] * 5)
    assert isinstance(failure.value, NonFiniteLogits)
    assert failure.value.rows == (3,)


def test_nothing_left_to_draw_fails_by_row() -> None:
    bans_all = SamplingParams(min_tokens=9, stop_token_ids=(0, 1, 2))
    with pytest.raises(NonFiniteLogits, match="row 1"):
        sample(torch.zeros(2, 3), [state_of(GREEDY, 3), state_of(bans_all, 3)])


def test_masked_logits_are_never_drawn() -> None:
    logits = torch.full((50, 200), -math.inf)
    logits[:, [5, 150]] = 0.0
    states = [state_of(SamplingParams(seed=row, top_p=0.99 if row % 2 else 1.0), 200) for row in range(50)]
    assert {token.token_id for token in sample(logits, states)} == {5, 150}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_may_carry_a_gradient(kind: SamplingParams) -> None:
    logits = logits_of(1)
    expected = sample(logits, [state_of(kind)])
    assert sample(logits.requires_grad_(), [state_of(kind)]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_logits_may_come_from_inference_mode(kind: SamplingParams) -> None:
    with torch.inference_mode():
        logits = logits_of(1)
    assert sample(logits, [state_of(kind)]) == sample(logits_of(1), [state_of(kind)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_draws_the_same_tokens(kind: SamplingParams) -> None:
    logits = logits_of(33)
    states = [state_of(kind, row=row) for row in range(33)]
    drawn = [token.token_id for token in sample(logits.cuda(), states)]
    assert drawn == [token.token_id for token in sample(logits, states)]
