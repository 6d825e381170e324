"""What the gateway's doors (HTTP, WebSocket, NATS) ask for and get: one generation as a stream of deltas.

The doors know this module and nothing behind it: no bus, no workers, no tokens' way. `sessions.py` implements it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from shared.core import FinishReason, SamplingParams, TokenLogprob
from shared.protocol.journal import Rendering
from shared.protocol.to_client import Timings as Timings  # noqa: PLC0414 - the doors read it here


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One checked request for one sequence.

    `stop` are strings that end the text (not part of it). `deadline_s` is the most it may take in all. A `resumable`
    one is kept when its client goes away; `rendering` is how HTTP says its answer. Only requests of equal `cache_salt`
    share what is cached.
    """

    request_id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    cache_salt: str = ""
    deadline_s: float = 600.0
    resumable: bool = False
    rendering: Rendering = Rendering()


class DeltaToken(msgspec.Struct, frozen=True):
    """One token of a delta: its own text (lossy where UTF-8 spans tokens), and its log-probabilities if asked for."""

    token_id: int
    text: str
    logprob: TokenLogprob | None = None


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The next piece of a generation. `text` holds back what may yet become a stop string or half a character.

    The last delta of a generation that ends well has `finish`, `stop_match` (the stop string, if one ended it) and
    `timings`. What a client that resumes has already is `known`: to be counted, not to be said.
    """

    text: str
    tokens: tuple[DeltaToken, ...]
    finish: FinishReason | None = None
    stop_match: str | None = None
    timings: Timings | None = None
    known: bool = False


class Generation(Protocol):
    """A running generation. Iterate once; ends after the delta that has `finish`, or raises a BatonError."""

    @property
    def id(self) -> str:
        """The session id: 32 lower-case hex digits."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...

    def cancel(self) -> None:
        """The client wants no more of it: once the context is left, nothing is kept, resumable or not."""


class Resumed(msgspec.Struct, frozen=True):
    """A session found again: what was asked, and the rest of the answer."""

    request: GenerationRequest
    running: AbstractAsyncContextManager[Generation]


class Generator(Protocol):
    """Starts generations."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[Generation]:
        """Start; leaving the context before the end, for whatever reason, cancels on all workers.

        A resumable one runs on for a while, and can be resumed for much longer. Raises from iteration: Overloaded and
        Unavailable (with `retry_after_ms`), DeadlineExceeded, HandoffFailed, WorkerFailed; SessionTaken when another
        client resumed it. Raises ResumeUnavailable on entering.
        """

    async def resume(self, session: str, after: int) -> Resumed:
        """Go on with `session` for a client that has its first `after` tokens, and all text that came with them.

        Raises SessionNotFound, ResumeUnavailable, Draining, and InvalidRequest for an `after` that cannot be.
        """

    async def end(self, session: str) -> None:
        """Cancel `session`, wherever it runs. Raises SessionNotFound and ResumeUnavailable."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the doors must know of the model to check a request."""

    name: str
    vocab_size: int
    context_tokens: int
    created_unix_s: int
