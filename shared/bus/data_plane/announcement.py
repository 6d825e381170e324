"""The line before a message: for which subscription, on which subject, how long. `reader` reads it."""

from __future__ import annotations

import msgspec

from shared.bus.data_plane.operations import CRLF
from shared.errors import ProtocolError

_SHOWN_BYTES = 64
_NUMBER_DIGITS = 12
_REPLY = 1


class Announcement(msgspec.Struct, frozen=True):
    """`size_bytes` counts NATS headers, `header_bytes` of them, and payload; `wire_bytes` counts the CRLF too."""

    subject: str
    sid: int
    header_bytes: int
    size_bytes: int

    @property
    def wire_bytes(self) -> int:
        return self.size_bytes + len(CRLF)


def announced(fields: bytes, *, with_headers: bool) -> Announcement:
    """What follows MSG, `subject sid [reply] size`, or HMSG, `subject sid [reply] header-size size`.

    Raises ProtocolError for anything else.
    """
    words = fields.split()
    sizes = 2 if with_headers else 1
    if len(words) - 2 - sizes not in (0, _REPLY):
        raise _refusal(fields)
    sid, *lengths = (_number(word, fields) for word in (words[1], *words[-sizes:]))
    header_bytes = lengths[0] if with_headers else 0
    if header_bytes > lengths[-1]:
        raise _refusal(fields)
    return Announcement(words[0].decode(errors="replace"), sid, header_bytes, lengths[-1])


def _number(word: bytes, fields: bytes) -> int:
    if not word.isdigit() or len(word) > _NUMBER_DIGITS:
        raise _refusal(fields)
    return int(word)


def _refusal(fields: bytes) -> ProtocolError:
    return ProtocolError(f"the NATS server announces a message with {fields[:_SHOWN_BYTES]!r}")
