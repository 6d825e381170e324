"""What clients of the WebSocket and of NATS send: the envelope only.

The parameters of a generation are those of the OpenAI bodies; the gateway checks them where it checks those.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shared.errors import InvalidRequest, ProtocolError
from shared.protocol.wire import VERSION

ID_LIMIT_CHARS = 64
_SESSION = re.compile(r"[0-9a-f]{32}")
_MAP = msgspec.msgpack.Decoder(dict[str, Any])


class Generate(msgspec.Struct, frozen=True):
    """Start a generation that this socket calls `id`."""

    id: str
    params: dict[str, Any]


class Resume(msgspec.Struct, frozen=True):
    """Go on with the session `session`: what comes after its first `after` tokens. Over NATS `id` is empty."""

    id: str
    session: str
    after: int


class Cancel(msgspec.Struct, frozen=True):
    """End the generation `id`; no-op where it has ended."""

    id: str


class Ping(msgspec.Struct, frozen=True):
    """Ask for a pong event."""


SocketMessage = Generate | Resume | Cancel | Ping


class NatsGenerate(msgspec.Struct, frozen=True):
    """One request over NATS. `deadline_s` is the most the client wants to wait; None leaves it to the gateway.

    With `resume` it has no `params`: it asks for the rest of a session.
    """

    params: dict[str, Any]
    stream: bool
    deadline_s: float | None
    resume: Resume | None = None


def socket_message(fields: dict[str, Any]) -> SocketMessage:
    """The message in one JSON object from a WebSocket client. Raises InvalidRequest."""
    kind = fields.get("type")
    if kind == "generate":
        params = {key: value for key, value in fields.items() if key not in ("type", "id")}
        if params.pop("stream", True) is not True:
            raise InvalidRequest("a generation on the WebSocket always streams", param="stream")
        return Generate(_id(fields), params)
    if kind == "resume":
        _only(fields, ("type", "id", "session", "after"))
        return Resume(_id(fields), _session(fields.get("session")), _after(fields.get("after", 0)))
    if kind == "cancel":
        _only(fields, ("type", "id"))
        return Cancel(_id(fields))
    if kind == "ping":
        _only(fields, ("type",))
        return Ping()
    raise InvalidRequest("type must be 'generate', 'resume', 'cancel' or 'ping'", param="type")


def readable_id(fields: dict[str, Any]) -> str | None:
    """The id a message names, if it may be one: so that an error about the message can name it too."""
    given = fields.get("id")
    return given if isinstance(given, str) and 1 <= len(given) <= ID_LIMIT_CHARS else None


def nats_generate(data: bytes) -> NatsGenerate:
    """The request in one NATS message: a MessagePack map. Raises ProtocolError and InvalidRequest."""
    try:
        params = _MAP.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ProtocolError(f"the request is not a MessagePack map with string keys: {error}") from error
    version = params.pop("v", None)
    if version != VERSION or isinstance(version, bool):
        raise ProtocolError(f"the request must have v = {VERSION}", param="v")
    stream = params.pop("stream", True)
    if not isinstance(stream, bool):
        raise InvalidRequest("stream must be a boolean", param="stream")
    deadline_s = _deadline_s(params.pop("deadline_ms", None))
    if "resume" in params:
        if deadline_s is not None:
            raise InvalidRequest("what is resumed has its deadline", param="deadline_ms")
        return NatsGenerate({}, stream, None, _nats_resume(params, stream))
    return NatsGenerate(params, stream, deadline_s)


def _nats_resume(params: dict[str, Any], stream: bool) -> Resume:
    if not stream:
        raise InvalidRequest("what is resumed always streams", param="stream")
    for key in params:
        if key not in ("resume", "after"):
            raise InvalidRequest(f"a request to resume has no {key!r}", param=key)
    return Resume("", _session(params["resume"]), _after(params.get("after", 0)))


def _session(given: object) -> str:
    if not isinstance(given, str) or not _SESSION.fullmatch(given):
        raise InvalidRequest("a session is 32 hex digits", param="session")
    return given


def _after(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InvalidRequest("after must be a number of tokens", param="after")
    return given


def _deadline_s(given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise InvalidRequest("deadline_ms must be a positive integer", param="deadline_ms")
    return given / 1000


def _id(fields: dict[str, Any]) -> str:
    found = readable_id(fields)
    if found is None:
        raise InvalidRequest(f"id must be a string of 1 to {ID_LIMIT_CHARS} characters", param="id")
    return found


def _only(fields: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for key in fields:
        if key not in allowed:
            raise InvalidRequest(f"a {fields['type']} message has no {key!r}", param=key)
