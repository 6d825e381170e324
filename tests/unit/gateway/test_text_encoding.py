"""Prompt texts to token ids: long ones, and hopelessly long ones."""

from __future__ import annotations

import threading

import pytest
from scripted_generator import ByteTokenizer

from services.gateway.text_encoding import LONG_TEXT_CHARS, PROBE_CHARS_PER_TOKEN, PromptEncoder
from shared.errors import ContextExceeded, InvalidRequest


class Recorder(ByteTokenizer):
    """Remembers how long the encoded texts were, and in which threads."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.threads: set[threading.Thread] = set()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.lengths.append(len(text))
        self.threads.add(threading.current_thread())
        return super().encode(text, add_special_tokens=add_special_tokens)


class WholeText(Recorder):
    """One token, however long the text."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return super().encode(text, add_special_tokens=add_special_tokens)[:1]


async def test_short_texts_are_encoded_in_place() -> None:
    tokenizer = Recorder()
    ids = await PromptEncoder(tokenizer, 64).encode("hi", add_special_tokens=True, param="prompt")
    assert ids == (256, *b"hi")
    assert tokenizer.threads == {threading.current_thread()}


async def test_long_texts_are_encoded_in_another_thread() -> None:
    tokenizer = Recorder()
    text = "a" * (LONG_TEXT_CHARS + 1)
    ids = await PromptEncoder(tokenizer, LONG_TEXT_CHARS + 1).encode(text, add_special_tokens=False, param="prompt")
    assert ids == tuple(text.encode())
    assert threading.current_thread() not in tokenizer.threads


async def test_a_hopelessly_long_text_is_refused_by_its_start() -> None:
    tokenizer = Recorder()
    with pytest.raises(ContextExceeded, match="context is 64 tokens") as caught:
        await PromptEncoder(tokenizer, 64).encode("a" * 8_000_000, add_special_tokens=True, param="messages")
    assert caught.value.param == "messages"
    assert max(tokenizer.lengths) < 8_000_000 / 1000


async def test_a_long_text_of_few_tokens_is_not_refused() -> None:
    tokenizer = WholeText()
    text = " " * 100_000
    ids = await PromptEncoder(tokenizer, 64).encode(text, add_special_tokens=False, param="prompt")
    assert ids == (32,)
    assert tokenizer.lengths[-1] == len(text)
    assert sum(tokenizer.lengths[:-1]) < 2 * len(text)
    assert tokenizer.lengths[0] >= 64 * PROBE_CHARS_PER_TOKEN


async def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        await PromptEncoder(ByteTokenizer(), 64).encode("\ud800", add_special_tokens=True, param="prompt")
