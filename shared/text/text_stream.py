"""Tokens to text, one at a time: what comes out adds up to the decoding of all tokens at once.

Two ways, by the kind of tokenizer. Byte-level: tokens are bytes, and an incremental UTF-8 decoder holds back the start
of a character. All others: decode a small window of tokens and take what is new since the last text. `detokenizer.py`
uses them and keeps special and unknown tokens away.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from shared.text.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MOST_HELD_TOKENS = 8


class TextStream(Protocol):
    """Text of a growing sequence of tokens."""

    def push(self, token_id: int) -> str:
        """The text that is certain now and was not before. Amortised constant time."""

    def finish(self) -> str:
        """The rest: a character left incomplete comes out as U+FFFD."""


class ByteLevelStream:
    """For byte-level tokenizers. Equals decoding all tokens at once, whatever their bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class WindowStream:
    """For all other tokenizers (sentencepiece and the like, with or without byte fallback).

    A run of byte tokens is held until another token ends it: whether it is text is decided for the whole run. So the
    sum equals decoding all tokens at once there too, valid UTF-8 or not. `previous_ids` are the tokens before the
    stream; they decide only whether a leading space is part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, previous_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._context = self._last_text_token(previous_ids)
        self._pending: list[int] = []
        self._started = bool(self._context)

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        return "" if self._tokenizer.is_fallback_byte(token_id) else self._release(final=False)

    def finish(self) -> str:
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        before = self._tokenizer.decode(self._context)
        after = self._tokenizer.decode(self._context + self._pending)
        text = after[len(before) :]
        if text.endswith(_REPLACEMENT) and len(self._pending) < _MOST_HELD_TOKENS and not final:
            return ""
        if text:
            self._context, self._started = self._pending, True
        elif not self._started:
            # Nothing has come out yet: these tokens still decide what the decoder strips from the beginning.
            self._context = self._context + self._pending
        self._pending = []
        return text

    def _last_text_token(self, ids: Sequence[int]) -> list[int]:
        tokenizer = self._tokenizer
        for token_id in reversed(ids):
            if tokenizer.is_text(token_id) and not tokenizer.is_fallback_byte(token_id):
                return [token_id]
        return []


def text_stream(tokenizer: Tokenizer, previous_ids: Sequence[int]) -> TextStream:
    """The stream for this kind of tokenizer."""
    return ByteLevelStream(tokenizer) if tokenizer.byte_level else WindowStream(tokenizer, previous_ids)
