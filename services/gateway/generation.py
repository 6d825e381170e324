"""What the gateway's doors (HTTP, WebSocket, NATS) ask for and get: one generation as a stream of deltas.

The doors know this module and nothing behind it: no bus, no workers, no tokens' way. `sessions.py` implements it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from shared.core import FinishReason, SamplingParams, TokenLogprob
from shared.protocol.to_client import Timings as Timings  # noqa: PLC0414 - the doors read it here


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One checked request for one sequence.

    `stop` are strings that end the text (not part of it). `deadline_s` is the most it may take in all.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    deadline_s: float = 600.0


class DeltaToken(msgspec.Struct, frozen=True):
    """One token of a delta: its own text (lossy where UTF-8 spans tokens), and its log-probabilities if asked for."""

    token_id: int
    text: str
    logprob: TokenLogprob | None = None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The next piece of a generation. `text` holds back what may yet become a stop string or half a character.

    The last delta of a generation that ends well has `finish`, `stop_match` (the stop string, if one ended it) and
    `timings`.
    """

    text: str
    tokens: tuple[DeltaToken, ...]
    finish: FinishReason | None = None
    stop_match: str | None = None
    timings: Timings | None = None


class Generation(Protocol):
    """A running generation. Iterate once; ends after the delta that has `finish`, or raises a BatonError."""

    @property
    def id(self) -> str:
        """The session id: 32 lower-case hex digits."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...


class Generator(Protocol):
    """Starts generations."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[Generation]:
        """Start; leaving the context before the end, for whatever reason, cancels on all workers.

        Raises from iteration: Overloaded and Unavailable (with `retry_after_ms`), DeadlineExceeded, HandoffFailed,
        WorkerFailed.
        """


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the doors must know of the model to check a request."""

    name: str
    vocab_size: int
    context_tokens: int
    created_unix_s: int
