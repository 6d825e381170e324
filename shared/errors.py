"""One error hierarchy, mapped once to HTTP, WebSocket and NATS.

Services raise these; the edges read the table. An error that crosses the bus travels as `ErrorInfo` and is raised
again as the same class on the other side.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it travels: a stable `code`, a sentence for a person, and what the client may do about it."""

    code: str
    message: str
    param: str | None = None
    retry_after_ms: int | None = None


class BatonError(Exception):
    """Base of every error Baton raises on purpose.

    `code` is stable and machine-readable, `http_status` and `openai_type` are what the HTTP edge answers;
    `retryable` says whether the same request may succeed elsewhere or later, `default_retry_after_ms` when, where
    whoever raises it knows no better.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "server_error"
    retryable: ClassVar[bool] = False
    default_retry_after_ms: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_ms = self.default_retry_after_ms if retry_after_ms is None else retry_after_ms

    @property
    def info(self) -> ErrorInfo:
        return ErrorInfo(code=self.code, message=self.message, param=self.param, retry_after_ms=self.retry_after_ms)

    def info_bytes(self) -> bytes:
        """`info` as MessagePack: the body of an error answer."""
        return msgspec.msgpack.encode(self.info)


class InvalidRequest(BatonError):
    """The request is wrong and stays wrong: types, ranges, unknown or unsupported parameters."""

    code = "invalid_request"
    http_status = 400
    openai_type = "invalid_request_error"


class ContextExceeded(InvalidRequest):
    """Prompt plus requested tokens do not fit the model's context."""

    code = "context_length_exceeded"


class ModelNotFound(BatonError):
    """The named model is not served here."""

    code = "model_not_found"
    http_status = 404
    openai_type = "invalid_request_error"


class NotFound(BatonError):
    """No such route or object."""

    code = "not_found"
    http_status = 404
    openai_type = "invalid_request_error"


class SessionNotFound(NotFound):
    """No resumable session of this id is known: it never was, it is too long ago, or its journal was lost."""

    code = "session_not_found"


class SessionTaken(BatonError):
    """The session was resumed by another client, which gets the rest."""

    code = "session_taken"
    http_status = 409
    openai_type = "invalid_request_error"


class MethodNotAllowed(BatonError):
    """The route exists, the HTTP method does not."""

    code = "method_not_allowed"
    http_status = 405
    openai_type = "invalid_request_error"


class PayloadTooLarge(BatonError):
    """A body or a message exceeds its limit; refused before it is read or sent."""

    code = "payload_too_large"
    http_status = 413
    openai_type = "invalid_request_error"


class Overloaded(BatonError):
    """Queues are full; try again after `retry_after_ms`."""

    code = "overloaded"
    http_status = 429
    openai_type = "rate_limit_error"
    retryable = True
    default_retry_after_ms = 1000


class KvExhausted(Overloaded):
    """A worker has no KV memory for this session now."""

    code = "kv_exhausted"


class Unavailable(BatonError):
    """No live worker, scheduler or bus for this request."""

    code = "unavailable"
    http_status = 503
    retryable = True
    default_retry_after_ms = 1000


class Draining(Unavailable):
    """The process finishes what it has and takes nothing new."""

    code = "draining"


class ResumeUnavailable(BatonError):
    """Requests cannot be made resumable here and now: NATS has no JetStream, or it does not answer."""

    code = "resume_unavailable"
    http_status = 503


class DeadlineExceeded(BatonError):
    """The request's deadline passed before it was done."""

    code = "deadline_exceeded"
    http_status = 504


class Cancelled(BatonError):
    """The client cancelled or went away."""

    code = "cancelled"
    http_status = 499


class ProtocolError(BatonError):
    """Bytes from the bus that are not a message of this version."""

    code = "protocol"
    http_status = 400
    openai_type = "invalid_request_error"


class HandoffFailed(BatonError):
    """The KV cache could not be moved between the workers."""

    code = "handoff_failed"
    http_status = 502
    retryable = True


class WorkerFailed(BatonError):
    """A worker failed while it held the session."""

    code = "worker_failed"
    http_status = 502
    retryable = True


class EngineFailed(WorkerFailed):
    """The engine failed on this session, and served the others that were with it."""

    code = "engine_failed"


class Quarantined(BatonError):
    """The prompt has crashed two workers: it is refused for some minutes, so that it does not crash a third."""

    code = "quarantined"
    http_status = 422
    openai_type = "invalid_request_error"


class UnsupportedModel(BatonError):
    """The model needs something the engine does not honour; never served approximately."""

    code = "unsupported_model"


class ConfigError(BatonError):
    """Settings are wrong; the message names the key and the nearest valid one."""

    code = "config"


def _all_errors(base: type[BatonError]) -> dict[str, type[BatonError]]:
    found = {base.code: base}
    for child in base.__subclasses__():
        found |= _all_errors(child)
    return found


def error_from(info: ErrorInfo) -> BatonError:
    """The exception an `ErrorInfo` stands for; an unknown code (a newer peer) becomes a plain `BatonError`."""
    kind = _ERRORS.get(info.code, BatonError)
    return kind(info.message, param=info.param, retry_after_ms=info.retry_after_ms)


_ERRORS = _all_errors(BatonError)
