"""What a client says to a NATS server, as bytes. Pure functions; `stream` and `connection` write what they return."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from shared.errors import ProtocolError

CRLF = b"\r\n"
PING = b"PING\r\n"
PONG = b"PONG\r\n"

_SUBJECT = re.compile(r"[!-~]+")


def connect(options: Mapping[str, object]) -> bytes:
    return b"CONNECT %b\r\n" % msgspec.json.encode(options)


def subscribe(subject: str, sid: int) -> bytes:
    """Raises ProtocolError for a subject that is none."""
    return b"SUB %b %d\r\n" % (_word(subject), sid)


def unsubscribe(sid: int) -> bytes:
    return b"UNSUB %d\r\n" % sid


def publish_line(subject: str, size_bytes: int) -> bytes:
    """What goes before `size_bytes` of payload and a CRLF. Raises ProtocolError for a subject that is none."""
    return b"PUB %b %d\r\n" % (_word(subject), size_bytes)


def _word(subject: str) -> bytes:
    """`subject`, if it can neither end its line early nor add a field to it."""
    if not _SUBJECT.fullmatch(subject):
        raise ProtocolError(f"not a NATS subject: {subject!r}")
    return subject.encode()
