"""Bias, ban and penalties against the plain-Python reference."""

from __future__ import annotations

from typing import Any

import pytest
import sampling_reference as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core import SamplingParams
from shared.engine.sampling import SamplerState, sample
from shared.engine.sampling.adjust import adjust
from shared.errors import InvalidRequest

VOCAB = 12
ENDS = (0, 3)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=8)
SAMPLING = st.builds(
    SamplingParams,
    logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=3),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
    presence_penalty=st.sampled_from([0.0, -2.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.7, -1.0]),
    min_tokens=st.integers(0, 6),
    ignore_eos=st.booleans(),
    stop_token_ids=st.lists(st.integers(0, VOCAB - 1), max_size=2).map(tuple),
)


def state_of(sampling: SamplingParams, prompt: list[int], emitted: list[int], appended: list[int]) -> SamplerState:
    state = SamplerState(sampling, [*prompt, *emitted], len(emitted), VOCAB, ENDS)
    for token in appended:
        state.append(token)
    return state


@settings(deadline=None)
@given(st.lists(st.tuples(SAMPLING, TOKENS, TOKENS, TOKENS), min_size=1, max_size=4), st.integers(0, 2**31))
def test_rows_are_adjusted_as_in_the_reference(rows: list[Any], seed: int) -> None:
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(seed)) * 5
    expected = [
        reference.adjusted(logits[row].tolist(), sampling, prompt, [*emitted, *appended], ENDS)
        for row, (sampling, prompt, emitted, appended) in enumerate(rows)
    ]
    adjust(logits, range(len(rows)), [state_of(*row) for row in rows])
    torch.testing.assert_close(logits, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_a_plain_row_is_not_touched() -> None:
    assert not state_of(SamplingParams(), [1, 2], [3], [4]).adjusts_logits
    logits = torch.randn(2, VOCAB)
    before = logits.clone()
    states = [state_of(SamplingParams(), [1], [], []), state_of(SamplingParams(repetition_penalty=2.0), [1], [], [])]
    adjust(logits, [1], states)
    assert torch.equal(logits[0], before[0])
    assert not torch.equal(logits[1], before[1])


def test_generated_tokens_are_penalized_from_the_first_on() -> None:
    state = state_of(SamplingParams(presence_penalty=1.0), [1], [], [])
    assert not state.adjusts_logits
    state.append(2)
    assert state.adjusts_logits


def test_the_ban_ends_with_min_tokens() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 3], logits[0, 5] = 9.0, 5.0
    state = state_of(SamplingParams(temperature=0.0, min_tokens=2), [1], [], [])
    drawn = []
    for _ in range(3):
        drawn.append(sample(logits, [state])[0].token_id)
        state.append(drawn[-1])
    assert drawn == [5, 5, 3]


def test_ignored_ends_are_not_banned_but_stop_tokens_are() -> None:
    sampling = SamplingParams(min_tokens=2, ignore_eos=True, stop_token_ids=(7,))
    assert state_of(sampling, [1], [], []).banned_ids.tolist() == [7]


def test_emitted_tokens_count_for_min_tokens_and_position() -> None:
    state = state_of(SamplingParams(min_tokens=2), [1, 1], [5, 6], [])
    assert state.banned_ids.size == 0
    assert state.known_tokens == 4


@pytest.mark.parametrize(
    ("sampling", "prompt", "param"),
    [
        (SamplingParams(logit_bias={VOCAB: 1.0}), [1], "logit_bias"),
        (SamplingParams(stop_token_ids=(-1,)), [1], "stop_token_ids"),
        (SamplingParams(repetition_penalty=1.1), [VOCAB], "prompt"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(sampling: SamplingParams, prompt: list[int], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        SamplerState(sampling, prompt, 0, VOCAB, ENDS)
    assert refusal.value.param == param
