"""What a NATS server says, parsed where it was received.

A plain object: `get_buffer` is where the next bytes go, `received` takes in how many came. Lines and small messages
are parsed in one small buffer; the payload of a larger message is received straight into a second one, which serves
again for the next. Knows no socket; `stream` feeds it.
"""

from __future__ import annotations

from typing import Protocol

from shared.bus.data_plane.announcement import Announcement, announced
from shared.bus.data_plane.operations import CRLF
from shared.errors import ProtocolError

LINE_BYTES = 32 << 10
_SHOWN_BYTES = 64


class Sink(Protocol):
    """Who is told what was read. `on_info` may raise ProtocolError, the others nothing."""

    def on_message(self, sid: int, subject: str, data: memoryview) -> None:
        """`data` is valid until this returns."""

    def on_info(self, data: bytes) -> None: ...

    def on_ping(self) -> None: ...

    def on_pong(self) -> None: ...

    def on_error(self, reason: str) -> None: ...


class Reader:
    """One connection's incoming bytes. After a ProtocolError it is of no further use.

    A message of more than `payload_limit_bytes` is taken for garbage, so that memory is bounded by it.
    """

    def __init__(self, sink: Sink) -> None:
        self.payload_limit_bytes = 0
        self._sink = sink
        self._lines = bytearray(LINE_BYTES)
        self._lines_view = memoryview(self._lines)
        self._start = 0
        self._stop = 0
        self._staging = memoryview(bytearray())
        self._staged_bytes = 0
        self._message: Announcement | None = None

    def get_buffer(self) -> memoryview:
        """Where the next bytes are to be written; never empty."""
        if self._message is not None:
            return self._staging[self._staged_bytes : self._message.wire_bytes]
        return self._lines_view[self._stop :]

    def received(self, count: int) -> None:
        """`count` bytes were written to `get_buffer()`. Tells the sink what they complete; raises ProtocolError."""
        if self._message is None:
            self._stop += count
            self._read_lines()
            return
        self._staged_bytes += count
        if self._staged_bytes == self._message.wire_bytes:
            message, self._message = self._message, None
            self._deliver(message, self._staging)

    def _read_lines(self) -> None:
        while self._message is None and (line := self._next_line()) is not None:
            self._read(line)

    def _next_line(self) -> bytes | None:
        """The next complete line, without its CRLF. None: there is none, and there is room for more of it."""
        end = self._lines.find(CRLF, self._start, self._stop)
        if end >= 0:
            line = bytes(self._lines_view[self._start : end])
            self._start = end + len(CRLF)
            return line
        unread = bytes(self._lines_view[self._start : self._stop])
        if len(unread) == LINE_BYTES:
            raise ProtocolError(f"the NATS server says a line of more than {LINE_BYTES} bytes")
        self._lines_view[: len(unread)] = unread
        self._start, self._stop = 0, len(unread)
        return None

    def _read(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        match operation:
            case b"MSG":
                self._begin(announced(rest, with_headers=False))
            case b"HMSG":
                self._begin(announced(rest, with_headers=True))
            case b"PING":
                self._sink.on_ping()
            case b"PONG":
                self._sink.on_pong()
            case b"INFO":
                self._sink.on_info(rest)
            case b"-ERR":
                self._sink.on_error(rest.decode(errors="replace").strip(" '"))
            case b"+OK":
                pass
            case _:
                raise ProtocolError(f"the NATS server says {line[:_SHOWN_BYTES]!r}")

    def _begin(self, message: Announcement) -> None:
        """Deliver a message that is here, or go on receiving it into the staging buffer."""
        if message.size_bytes > self.payload_limit_bytes:
            raise ProtocolError(f"NATS message of {message.size_bytes} bytes exceeds {self.payload_limit_bytes}")
        here = self._lines_view[self._start : self._stop]
        if len(here) >= message.wire_bytes:
            self._start += message.wire_bytes
            self._deliver(message, here)
            return
        if len(self._staging) < message.wire_bytes:
            self._staging = memoryview(bytearray(message.wire_bytes))
        self._staging[: len(here)] = here
        self._staged_bytes = len(here)
        self._start = self._stop = 0
        self._message = message

    def _deliver(self, message: Announcement, buffer: memoryview) -> None:
        if buffer[message.size_bytes : message.wire_bytes] != CRLF:
            raise ProtocolError(f"a NATS message on {message.subject} does not end where it was announced to")
        with buffer[message.header_bytes : message.size_bytes].toreadonly() as data:
            self._sink.on_message(message.sid, message.subject, data)
