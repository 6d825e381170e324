from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.text.detokenizer import Detokenizer
from shared.text.tokenizer import Tokenizer

same_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream(detokenizer: Detokenizer, chunks: list[list[int]]) -> str:
    text = "".join(detokenizer.push(chunk).text for chunk in chunks)
    return text + detokenizer.finish().text


def draw_chunks(data: st.DataObject, tokenizer: Tokenizer) -> list[list[int]]:
    ids = st.integers(0, tokenizer.vocab_size + 2)
    return data.draw(st.lists(st.lists(ids, max_size=6), max_size=12))


def flat(chunks: list[list[int]]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk]


@given(data=st.data())
@same_fixture
def test_any_tokens_in_any_chunks_add_up_to_the_full_decoding(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    chunks = draw_chunks(data, any_tokenizer)
    assert stream(Detokenizer(any_tokenizer), chunks) == any_tokenizer.decode(flat(chunks))


@given(data=st.data(), stop=st.text(alphabet="ab ehlo\n�", min_size=1, max_size=3))
@same_fixture
def test_any_stop_string_cuts_the_full_decoding(any_tokenizer: Tokenizer, data: st.DataObject, stop: str) -> None:
    chunks = draw_chunks(data, any_tokenizer)
    full = any_tokenizer.decode(flat(chunks))
    detokenizer = Detokenizer(any_tokenizer, stop=(stop,))
    assert stream(detokenizer, chunks) == full.split(stop)[0]
    assert detokenizer.stopped == (stop in full)


@given(text=st.text())
@same_fixture
def test_encoded_text_comes_back_token_by_token(byte_level: Tokenizer, text: str) -> None:
    chunks = [[token_id] for token_id in byte_level.encode(text, add_special_tokens=False)]
    assert stream(Detokenizer(byte_level), chunks) == byte_level.decode(flat(chunks))


def test_a_character_that_spans_tokens_comes_whole(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level)
    ids = byte_level.encode("a😀b", add_special_tokens=False)
    assert [detokenizer.push([token_id]).text for token_id in ids] == ["a", "", "", "😀", "b"]


def test_a_run_of_byte_tokens_comes_when_another_token_ends_it(sentencepiece: Tokenizer) -> None:
    detokenizer = Detokenizer(sentencepiece)
    ids = sentencepiece.encode("a😀b", add_special_tokens=False)
    assert [detokenizer.push([token_id]).text for token_id in ids] == ["a", "", "", "", "", "😀b"]


def test_an_incomplete_character_at_the_end_becomes_a_replacement_character(any_tokenizer: Tokenizer) -> None:
    if not (any_tokenizer.byte_level or any_tokenizer.byte_fallback):
        return
    half = any_tokenizer.encode("😀", add_special_tokens=False)[:-1]
    detokenizer = Detokenizer(any_tokenizer)
    assert detokenizer.push(half).text == ""
    assert detokenizer.finish().text == any_tokenizer.decode(half)
    assert "�" in any_tokenizer.decode(half)


def test_special_tokens_are_not_text_but_are_shown_as_tokens(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a</s>b", add_special_tokens=False)
    piece = Detokenizer(byte_level).push(ids)
    assert piece.text == "ab"
    assert piece.token_texts == ("a", "</s>", "b")


def test_a_stop_string_across_tokens_leaves_no_trace_and_ends_the_tokens(byte_level: Tokenizer) -> None:
    detokenizer = Detokenizer(byte_level, stop=("lo!",))
    first = detokenizer.push(byte_level.encode("say hello", add_special_tokens=False))
    last = detokenizer.push(byte_level.encode("!ab", add_special_tokens=False))
    assert (first.text, first.stop_match) == ("say hel", None)
    assert (last.text, last.stop_match, last.token_texts) == ("", "lo!", ("!",))
    assert detokenizer.push([5]).token_texts == ()
    assert detokenizer.finish().text == ""


def test_a_stop_string_held_in_a_byte_run_is_found_at_the_end(sentencepiece: Tokenizer) -> None:
    detokenizer = Detokenizer(sentencepiece, stop=("😀",))
    detokenizer.push(sentencepiece.encode("a😀", add_special_tokens=False))
    assert detokenizer.finish().stop_match == "😀"


def test_the_leading_space_belongs_to_the_answer_after_a_prompt(sentencepiece: Tokenizer) -> None:
    prompt = sentencepiece.encode("ab", add_special_tokens=False)
    answer = sentencepiece.encode("a b", add_special_tokens=False)
    assert stream(Detokenizer(sentencepiece, previous_ids=prompt), [answer]) == " a b"
    assert stream(Detokenizer(sentencepiece), [answer]) == "a b"


def test_a_prompt_of_special_tokens_alone_is_no_text_before(sentencepiece: Tokenizer) -> None:
    answer = sentencepiece.encode("a", add_special_tokens=False)
    assert stream(Detokenizer(sentencepiece, previous_ids=[1, 2]), [answer]) == "a"


@given(data=st.data())
@same_fixture
def test_a_prompt_and_its_answer_add_up(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    known = st.integers(3, any_tokenizer.vocab_size - 1)
    whole = [token_id for token_id in range(any_tokenizer.vocab_size) if not any_tokenizer.is_fallback_byte(token_id)]
    prompt = [*data.draw(st.lists(known, max_size=5)), data.draw(st.sampled_from(whole[3:]))]
    if any_tokenizer.byte_level:
        prompt = any_tokenizer.encode("hello", add_special_tokens=False)
    ids = data.draw(st.lists(known, max_size=8))
    answer = stream(Detokenizer(any_tokenizer, previous_ids=prompt), [ids])
    assert any_tokenizer.decode(prompt) + answer == any_tokenizer.decode(prompt + ids)


def test_no_stop_string_is_looked_for_before_min_tokens(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("ab ab ab", add_special_tokens=False)
    first = byte_level.token_text(ids[0])
    detokenizer = Detokenizer(byte_level, stop=["b"], min_tokens=len(ids) - 1)
    piece = detokenizer.push(ids)
    assert piece.text.startswith(first)
    assert piece.text == byte_level.decode(ids).rsplit("b", 1)[0]
    assert piece.stop_match == "b"
