"""Counts one call's tokens and keeps its timelines: what `usage` and `baton` say.

Knows numbers only. The OpenAI routes feed it every delta once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from services.gateway.generation import Delta, GenerationRequest, Timings
from services.gateway.openai.schema import BatonTimings, PromptTokensDetails, Usage


class Tally:
    """Of all choices of one call; `requests` are theirs, `n` choices to each prompt."""

    def __init__(self, requests: Sequence[GenerationRequest], n: int) -> None:
        self._prompt_tokens = [len(request.prompt_ids) for request in requests]
        self._completion_tokens = [0] * len(requests)
        self._timings: list[Timings] = [Timings()] * len(requests)
        self._n = n

    def add(self, index: int, delta: Delta) -> None:
        """Count the next delta of choice `index`."""
        self._completion_tokens[index] += len(delta.tokens)
        if delta.timings is not None:
            self._timings[index] = delta.timings

    def usage(self) -> Usage:
        """Of the whole call."""
        prompt_tokens = sum(self._prompt_tokens[:: self._n])
        cached = [timings.cached_tokens for timings in self._timings[:: self._n]]
        known = [tokens for tokens in cached if tokens is not None]
        details = PromptTokensDetails(sum(known)) if known else UNSET
        return _usage(prompt_tokens, sum(self._completion_tokens), details)

    def usage_of(self, index: int) -> Usage:
        """Of choice `index`, so far."""
        return _usage(self._prompt_tokens[index], self._completion_tokens[index])

    def tokens_of(self, index: int) -> int:
        """Tokens of choice `index`, so far."""
        return self._completion_tokens[index]

    def baton(self) -> BatonTimings:
        """The first choice's timeline, and each one's if there are several."""
        first = msgspec.structs.asdict(self._timings[0])
        return BatonTimings(**first, choices=tuple(self._timings) if len(self._timings) > 1 else ())


def _usage(
    prompt_tokens: int, completion_tokens: int, details: PromptTokensDetails | msgspec.UnsetType = UNSET
) -> Usage:
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens, details)
