"""What a client says to a NATS server, as bytes. Pure functions; `stream` and `connection` write what they return."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

_FORBIDDEN = frozenset(" \t\r\n")


def connect(options: Mapping[str, object]) -> bytes:
    return b"CONNECT %b\r\n" % msgspec.json.encode(options)


def subscribe(subject: str, sid: int) -> bytes:
    """Raises ValueError for a subject that would end the line early or add a field to it."""
    return b"SUB %b %d\r\n" % (_word(subject), sid)


def unsubscribe(sid: int) -> bytes:
    return b"UNSUB %d\r\n" % sid


def publish_line(subject: str, size_bytes: int) -> bytes:
    """What goes before `size_bytes` of payload and a CRLF. Raises ValueError as `subscribe` does."""
    return b"PUB %b %d\r\n" % (_word(subject), size_bytes)


def _word(subject: str) -> bytes:
    if not subject or not _FORBIDDEN.isdisjoint(subject):
        raise ValueError(f"not a NATS subject: {subject!r}")
    return subject.encode()
