"""Prompt texts to token ids: without stalling other streams, and never much more work than the context is long.

Knows the tokenizer and the context's length, nothing of calls. `requests.py` calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from shared.errors import ContextExceeded, InvalidRequest

LONG_TEXT_CHARS = 16_384
PROBE_CHARS_PER_TOKEN = 8
BOUNDARY_TOKENS = 256


class TextEncoder(Protocol):
    """Text to token ids; a `shared.text` tokenizer is one. Called from other threads, too."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Sequence[int]: ...


class PromptEncoder:
    """Encodes for a model with a context of `context_tokens`.

    A tokenizer takes hundreds of times a text's size while it works, so a text that looks too long is tried from its
    start in growing parts, until one has more tokens than the context.
    """

    def __init__(self, tokenizer: TextEncoder, context_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._context_tokens = context_tokens

    async def encode(self, text: str, *, add_special_tokens: bool, param: str) -> tuple[int, ...]:
        """Token ids of `text`. Raises InvalidRequest for lone surrogates, ContextExceeded for hopelessly long texts."""
        if len(text) <= LONG_TEXT_CHARS:
            return self._encode(text, add_special_tokens, param)
        return await asyncio.to_thread(self._encode, text, add_special_tokens, param)

    def _encode(self, text: str, add_special_tokens: bool, param: str) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("the text holds a lone surrogate, it is not valid Unicode", param=param) from error
        chars = PROBE_CHARS_PER_TOKEN * (self._context_tokens + BOUNDARY_TOKENS)
        while chars < len(text):
            self._check_part(text[:chars], param)
            chars *= 2
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def _check_part(self, start: str, param: str) -> None:
        # Where the text is cut, the last word's tokens may differ from those it has in the whole: hence the margin.
        tokens = len(self._tokenizer.encode(start, add_special_tokens=False)) - BOUNDARY_TOKENS
        if tokens > self._context_tokens:
            raise ContextExceeded(
                f"the model's context is {self._context_tokens} tokens: the prompt's first {len(start)} characters"
                f" alone have more than {tokens}",
                param=param,
            )
