"""From sampled tokens to deltas."""

from __future__ import annotations

import msgspec
import pytest
from frames import request
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from services.gateway.generation import Delta, Timings
from services.gateway.sessions.text import DeltaWriter, RestWriter, with_timings
from shared.core import FinishReason, SampledToken, TokenLogprob
from shared.errors import InvalidRequest
from shared.text.tokenizer import Tokenizer

LENGTH, STOP = FinishReason.LENGTH, FinishReason.STOP


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


@pytest.fixture
def sampled(tokenizer: Tokenizer):
    return lambda text: [SampledToken(token) for token in tokenizer.encode(text, add_special_tokens=False)]


def test_each_delta_has_its_tokens_and_their_text(tokenizer: Tokenizer, sampled):
    writer = DeltaWriter(tokenizer, request())
    delta = writer.write(sampled("ab"), None)
    assert (delta.text, [token.text for token in delta.tokens], delta.finish) == ("ab", ["a", "b"], None)


def test_half_a_character_is_held_back_until_it_is_whole_or_over(tokenizer: Tokenizer, sampled):
    euro = sampled("€")
    writer = DeltaWriter(tokenizer, request())
    assert [writer.write([token], None).text for token in euro] == ["", "", "€"]
    assert writer.write(euro[:1], LENGTH).text == "�"


def test_a_stop_string_ends_the_text_and_what_was_sampled_behind_it_is_gone(tokenizer: Tokenizer, sampled):
    writer = DeltaWriter(tokenizer, request(stop=("cd",)))
    assert writer.write(sampled("abc"), None).text == "ab"
    delta = writer.write(sampled("defg"), None)
    assert (delta.text, delta.finish, delta.stop_match) == ("", STOP, "cd")
    assert [token.text for token in delta.tokens] == ["d"]


def test_what_might_have_become_a_stop_string_comes_with_the_end(tokenizer: Tokenizer, sampled):
    writer = DeltaWriter(tokenizer, request(stop=("cd",)))
    assert writer.write(sampled("abc"), None).text == "ab"
    delta = writer.write([], LENGTH)
    assert (delta.text, delta.finish, delta.stop_match) == ("c", LENGTH, None)


def test_a_stop_string_in_the_last_tokens_is_a_stop(tokenizer: Tokenizer, sampled):
    writer = DeltaWriter(tokenizer, request(stop=("cd",)))
    delta = writer.write(sampled("abcd"), LENGTH)
    assert (delta.text, delta.finish, delta.stop_match) == ("ab", STOP, "cd")


def test_log_probabilities_stay_with_their_tokens(tokenizer: Tokenizer):
    delta = DeltaWriter(tokenizer, request()).write([SampledToken(40, TokenLogprob(-0.5)), SampledToken(41)], None)
    assert [token.logprob for token in delta.tokens] == [TokenLogprob(-0.5), None]


def test_an_empty_stop_string_is_refused(tokenizer: Tokenizer):
    with pytest.raises(InvalidRequest):
        DeltaWriter(tokenizer, request(stop=("",)))


def test_a_token_the_tokenizer_does_not_know_adds_nothing(tokenizer: Tokenizer):
    delta = DeltaWriter(tokenizer, request()).write([SampledToken(100_000)], LENGTH)
    assert (delta.text, len(delta.tokens)) == ("", 1)


def test_the_last_delta_gets_the_timeline(tokenizer: Tokenizer, sampled):
    delta = DeltaWriter(tokenizer, request(stop=("b",))).write(sampled("ab"), None)
    timed = with_timings(delta, Timings(total_ms=5.0))
    assert (timed.text, timed.tokens, timed.finish, timed.stop_match) == ("a", delta.tokens, STOP, "b")
    assert timed.timings == Timings(total_ms=5.0)


@given(
    text=st.text(alphabet="abE€N D", max_size=24),
    stop=st.sampled_from([(), ("END",), ("N", "EN"), ("€ a",)]),
    after=st.integers(0, 60),
    cuts=st.lists(st.integers(1, 5), max_size=30),
    finish=st.sampled_from([LENGTH, STOP]),
)
def test_the_rest_goes_on_without_a_seam(
    *, tokenizer: Tokenizer, text: str, stop: tuple[str, ...], after: int, cuts: list[int], finish: FinishReason
):
    """A client breaks off between two tokens, wherever; what it has and the rest are the whole, however it was cut."""
    tokens = [SampledToken(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    asked = msgspec.structs.replace(request(), stop=stop)
    batches = _cut(tokens, cuts)
    had = _written(
        DeltaWriter(tokenizer, asked),
        [([token], finish if number == len(tokens) else None) for number, token in enumerate(tokens, start=1)],
        until=after,
    )
    after = sum(len(delta.tokens) for delta in had)
    whole = _written(DeltaWriter(tokenizer, asked), [(tokens, finish)])
    writer = RestWriter(tokenizer, asked, after)
    rest: list[Delta] = []
    for number, batch in enumerate(batches, start=1):
        rest += writer.write(batch, finish if number == len(batches) else None)
        if rest and rest[-1].finish is not None:
            break
    said = [delta for delta in rest if not delta.known]
    assert "".join(delta.text for delta in [*had, *said]) == "".join(delta.text for delta in whole)
    assert [token for delta in [*had, *said] for token in delta.tokens] == list(whole[0].tokens)
    assert [token for delta in rest for token in delta.tokens] == list(whole[0].tokens)
    assert [(delta.finish, delta.stop_match) for delta in said if delta.finish] == [
        (whole[0].finish, whole[0].stop_match)
    ]


def test_an_answer_that_ends_before_the_clients_last_token(tokenizer: Tokenizer, sampled):
    writer = RestWriter(tokenizer, request(), 3)
    with pytest.raises(InvalidRequest, match="ends 1 tokens before"):
        writer.write(sampled("ab"), LENGTH)
    [cancelled] = RestWriter(tokenizer, request(), 3).write([], FinishReason.CANCELLED)
    assert (cancelled.text, cancelled.finish) == ("", FinishReason.CANCELLED)


def _cut(tokens: list[SampledToken], cuts: list[int]) -> list[list[SampledToken]]:
    batches = []
    for size in cuts:
        batches.append(tokens[:size])
        tokens = tokens[size:]
    return [batch for batch in batches if batch] + ([tokens] if tokens or not any(batches) else [])


def _written(
    writer: DeltaWriter, batches: list[tuple[list[SampledToken], FinishReason | None]], until: int = 1000
) -> list[Delta]:
    """Deltas until there are `until` tokens, or the end."""
    deltas: list[Delta] = []
    for tokens, finish in batches:
        if sum(len(delta.tokens) for delta in deltas) >= until:
            break
        deltas.append(writer.write(tokens, finish))
        if deltas[-1].finish is not None:
            break
    return deltas
