"""Tokenizer, chat template and detokenizer against the transformers library, on the default model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from shared.text.chat_template import ChatTemplate
from shared.text.detokenizer import Detokenizer
from shared.text.tokenizer import Tokenizer

pytestmark = pytest.mark.model

CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [
        {"role": "system", "content": "Answer in verse."},
        {"role": "user", "content": "你好 <|im_end|> 😀\n"},
        {"role": "assistant", "content": "…"},
        {"role": "user", "content": "  12345  \t and?"},
    ],
]


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(model_folder)


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.load(model_folder)


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
def test_the_chat_template_gives_the_same_text_and_tokens(
    model_folder: Path, reference: Any, tokenizer: Tokenizer, chat: list[dict[str, str]]
) -> None:
    text = ChatTemplate.load(model_folder, "default").render(chat)
    assert text == reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = reference.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode(text, add_special_tokens=False) == ids


@given(text=st.text())
def test_the_same_tokens_for_any_text(reference: Any, tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text, add_special_tokens=True) == reference(text)["input_ids"]


@given(ids=st.lists(st.integers(0, 49151), max_size=30))
def test_the_same_text_for_any_tokens(reference: Any, tokenizer: Tokenizer, ids: list[int]) -> None:
    text = reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode(ids) == text
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push([token_id]).text for token_id in ids]
    assert "".join(pieces) + detokenizer.finish().text == text


def test_every_token_has_bytes_that_add_up(tokenizer: Tokenizer) -> None:
    ids = list(range(tokenizer.vocab_size))
    random.Random(0).shuffle(ids)
    ids = [token_id for token_id in ids if token_id not in tokenizer.special_ids]
    assert b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace") == tokenizer.decode(ids)
