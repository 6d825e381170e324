"""Log-probabilities in the two formats of the OpenAI API.

Knows tokens and their texts, not where they come from. The completions and chat routes call it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from services.gateway.generation import DeltaToken
from shared.core import TokenLogprob

LOWEST_LOGPROB = -9999.0


class TokenTexts(Protocol):
    """What single tokens stand for inside a longer text; a `shared.text` tokenizer knows."""

    def token_text(self, token_id: int) -> str:
        """Lossy where a character spans tokens."""

    def token_bytes(self, token_id: int) -> bytes:
        """Exact."""


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists, one entry per token. `text_offset` counts characters from the start of the answer's text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class ChatAlternative(msgspec.Struct, frozen=True):
    """A token's text, its log-probability and its exact bytes."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[ChatAlternative, ...]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatTokenLogprob]


def completion_logprobs(tokens: Iterable[DeltaToken], texts: TokenTexts, offset: int) -> CompletionLogprobs:
    """`tokens` in the completions format; `offset` is that of the first. The chosen token is in every `top_logprobs`.

    Alternatives whose texts are equal share one entry, the likelier: the format is keyed by text.
    """
    answer = CompletionLogprobs([], [], [], [])
    for token in tokens:
        logprob = _logprob(token)
        top: dict[str, float] = {}
        for token_id, alternative in logprob.top:
            top.setdefault(texts.token_text(token_id), _finite(alternative))
        top.setdefault(token.text, _finite(logprob.logprob))
        answer.tokens.append(token.text)
        answer.token_logprobs.append(_finite(logprob.logprob))
        answer.top_logprobs.append(top)
        answer.text_offset.append(offset)
        offset += len(token.text)
    return answer


def chat_logprobs(tokens: Iterable[DeltaToken], texts: TokenTexts) -> ChatLogprobs:
    """`tokens` in the chat format."""
    return ChatLogprobs([_chat_token(token, texts) for token in tokens])


def _chat_token(token: DeltaToken, texts: TokenTexts) -> ChatTokenLogprob:
    logprob = _logprob(token)
    return ChatTokenLogprob(
        token=token.text,
        logprob=_finite(logprob.logprob),
        bytes=tuple(texts.token_bytes(token.token_id)),
        top_logprobs=tuple(
            ChatAlternative(texts.token_text(token_id), _finite(value), tuple(texts.token_bytes(token_id)))
            for token_id, value in logprob.top
        ),
    )


def _logprob(token: DeltaToken) -> TokenLogprob:
    return token.logprob or TokenLogprob(LOWEST_LOGPROB)


def _finite(logprob: float) -> float:
    """JSON has no infinity: what cannot be sampled gets the conventional lowest value."""
    return max(logprob, LOWEST_LOGPROB)
