"""From sampled tokens to deltas."""

from __future__ import annotations

import pytest
from frames import request
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from services.gateway.generation import Timings
from services.gateway.sessions.text import DeltaWriter, with_timings
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
