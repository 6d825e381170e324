"""What gateways keep of resumable sessions, for whichever one goes on with them; and what they tell each other of it.

A session has one `Opened`, an `Owned` for each time it was taken over, and `Appended`s as its tokens come. A tenure is
the time of one owner; its epochs begin at `first_epoch`, above all epochs of the tenures before it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from shared.core import FinishReason, SamplingParams, TokenLogprob
from shared.errors import ErrorInfo
from shared.protocol.to_client import Timings
from shared.protocol.wire import CacheSalt, Count, Message, Name, SessionId

EPOCH_BITS = 16
Tenure = Annotated[int, Meta(ge=0, lt=1 << EPOCH_BITS)]


class Rendering(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an HTTP client gets the session's answer: as chunks of a chat or of a completion.

    `response_id` and `created_unix_s` are the same in all chunks, whichever gateway writes them.
    """

    chat: bool = False
    response_id: str = ""
    created_unix_s: int = 0
    include_usage: bool = False
    usage_in_chunks: bool = False


class Opened(Message, frozen=True, kw_only=True):
    """A request whose answer can be resumed. With the seed in `sampling` it is all that the answer depends on.

    `prompt_ids` are int32 bytes (`wire.pack_ids`), `deadline_ms` is what it may take in all.
    """

    session: SessionId
    request_id: str
    gateway: Name
    model: str
    prompt_ids: bytes
    max_tokens: Count
    sampling: SamplingParams
    stop: tuple[str, ...] = ()
    cache_salt: CacheSalt = ""
    deadline_ms: Count
    rendering: Rendering = Rendering()


class Owned(Message, frozen=True, kw_only=True):
    """`gateway` goes on with the session, and nobody of an older tenure may any more."""

    tenure: Tenure
    gateway: Name


class Appended(Message, frozen=True, kw_only=True):
    """Tokens `[index, index + n)` of the session as int32 bytes, and its end once it has one: `finish` or `error`.

    `left_ms` is what was left of the deadline, `arithmetic` and `fingerprint` those of the decode (see `PlaceRequest`).
    `finish` is that of the workers, or `stop` where a stop string was found.
    """

    tenure: Tenure
    index: Count
    ids: bytes
    left_ms: Count
    arithmetic: str = ""
    fingerprint: str = ""
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish: FinishReason | None = None
    error: ErrorInfo | None = None
    timings: Timings | None = None


class TakenOver(Message, frozen=True, kw_only=True):
    """To all gateways: whoever holds `session` in an older tenure holds it no more."""

    session: SessionId
    tenure: Tenure


def first_epoch(tenure: int) -> int:
    """The first epoch of a tenure."""
    return tenure << EPOCH_BITS
