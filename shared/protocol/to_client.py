"""What a client of the WebSocket or of NATS receives: the events of its generations, the same on both.

On the WebSocket an event is a JSON object, on NATS a MessagePack map. Fields that do not apply are absent.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from shared.core import FinishReason
from shared.protocol.wire import VERSION

EVENT_HEADER = "Baton-Event"


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The timeline of one generation: which worker ran which phase, and durations in milliseconds.

    The stages, as those who do them measure them (`docs/timeline.md`): `queue_ms`, `prefill_queue_ms`, `prefill_ms`,
    `publish_ms`, `wire_ms`, `import_ms`, `first_step_ms`. `handoff_ms` is the visible part of the hand-off; `ttft_ms`
    and `itl_ms` (mean) are seen from the gateway. `kv_encoding` says in words how the cache travelled, and that it was
    lossy if it was.
    """

    prefill_worker: str | None = None
    decode_worker: str | None = None
    queue_ms: float | None = None
    prefill_queue_ms: float | None = None
    prefill_ms: float | None = None
    publish_ms: float | None = None
    wire_ms: float | None = None
    import_ms: float | None = None
    first_step_ms: float | None = None
    handoff_ms: float | None = None
    kv_bytes: int | None = None
    kv_encoding: str | None = None
    cached_tokens: int | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    total_ms: float | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens counted, as in the OpenAI API."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopToken(msgspec.Struct, frozen=True):
    token_id: int
    logprob: float


class ClientLogprob(msgspec.Struct, frozen=True):
    """Natural-log probabilities at one position: the chosen token's, and the likeliest alternatives'."""

    logprob: float
    top: tuple[TopToken, ...]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all events. `n` counts the events of one generation from 0, without gaps.

    On the WebSocket `seq` counts the events of the socket from 0, and `id` is the client's name of the generation.
    `session` is the fleet's name of it: in `Started` always, on NATS in every event once there is one.
    """

    v: int = VERSION
    seq: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    session: str | UnsetType = UNSET
    n: int | UnsetType = UNSET


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The request was accepted. A message on `cancel_subject` (NATS) ends the generation."""

    model: str
    prompt_tokens: int
    cancel_subject: str | UnsetType = UNSET


class Delta(Event, frozen=True, kw_only=True, tag="delta"):
    """New text, and the new tokens `[index, index + len(token_ids))` of the generation.

    Text may lag behind tokens: what may yet become a stop string or half a character is held back.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[ClientLogprob, ...] | UnsetType = UNSET


class Finished(Event, frozen=True, kw_only=True, tag="finished"):
    """The last event of a generation that ended well or was cancelled.

    `stop_match` is the stop string that ended it. `text`, `token_ids` and `logprobs` are the whole answer, where the
    request asked not to stream.
    """

    finish_reason: FinishReason
    usage: Usage
    stop_match: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    text: str | UnsetType = UNSET
    token_ids: tuple[int, ...] | UnsetType = UNSET
    logprobs: tuple[ClientLogprob, ...] | UnsetType = UNSET


class Failed(Event, frozen=True, kw_only=True, tag="error"):
    """The last event of a generation that failed; or, without `id`, what is wrong with a message of the client.

    `code` is stable, `message` is for a person.
    """

    code: str
    message: str
    param: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET


class Pong(Event, frozen=True, kw_only=True, tag="pong"):
    """Answers a ping of the WebSocket client."""


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """Nothing new; sent on NATS to see whether the requester still listens. Clients ignore it."""


AnyEvent = Started | Delta | Finished | Failed | Pong | Waiting


def event_name(event: Event) -> str:
    """The `type` of `event`."""
    return str(event.__struct_config__.tag)
