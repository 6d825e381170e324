"""The reader gets the same out of a stream of bytes however it is cut, and refuses what is no NATS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.bus.data_plane.reader import LINE_BYTES, Reader
from shared.errors import ProtocolError

LIMIT_BYTES = 256 << 10
Event = tuple[Any, ...]


class Recorder:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_message(self, sid: int, subject: str, data: memoryview) -> None:
        self.events.append(("message", sid, subject, bytes(data)))

    def on_info(self, data: bytes) -> None:
        self.events.append(("info", data))

    def on_ping(self) -> None:
        self.events.append(("ping",))

    def on_pong(self) -> None:
        self.events.append(("pong",))

    def on_error(self, reason: str) -> None:
        self.events.append(("error", reason))


def read(stream: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """What a reader tells of `stream` when it is received in pieces that end at `cuts`."""
    recorder = Recorder()
    reader = Reader(recorder)
    reader.payload_limit_bytes = LIMIT_BYTES
    start = 0
    for stop in (*sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)):
        while start < stop:
            buffer = reader.get_buffer()
            count = min(len(buffer), stop - start)
            buffer[:count] = stream[start : start + count]
            reader.received(count)
            start += count
    return recorder.events


SUBJECTS = st.text("abcXYZ09_-.*>", min_size=1, max_size=40)
SIZES = st.one_of(
    st.integers(0, 40), st.integers(LINE_BYTES - 40, LINE_BYTES + 40), st.integers(0, 3 * LINE_BYTES), st.just(200_000)
)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, Event]:
    subject, sid, reply = draw(SUBJECTS), draw(st.integers(0, 10**9)), draw(st.sampled_from([b"", b"_INBOX.1 "]))
    size = draw(SIZES)
    payload = (draw(st.binary(min_size=1, max_size=16)) * (size + 1))[:size]
    headers = draw(st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n"]))
    if headers:
        line = b"HMSG %b %d %b%d %d" % (subject.encode(), sid, reply, len(headers), len(headers) + size)
    else:
        line = b"MSG %b %d %b%d" % (subject.encode(), sid, reply, size)
    return line + b"\r\n" + headers + payload + b"\r\n", ("message", sid, subject, payload)


LINES = st.sampled_from(
    [
        (b"PING\r\n", ("ping",)),
        (b"PONG\r\n", ("pong",)),
        (b"+OK\r\n", None),
        (b"-ERR 'Slow Consumer'\r\n", ("error", "Slow Consumer")),
        (b'INFO {"max_payload":1}\r\n', ("info", b'{"max_payload":1}')),
    ]
)


@given(st.lists(st.one_of(messages(), LINES), max_size=8), st.data())
def test_any_cut_of_the_stream_tells_the_same(parts: list[tuple[bytes, Event | None]], data: st.DataObject) -> None:
    stream = b"".join(sent for sent, _ in parts)
    cuts = data.draw(st.lists(st.integers(0, max(1, len(stream))), max_size=30))
    assert read(stream, cuts) == [event for _, event in parts if event is not None]


def test_a_stream_that_comes_byte_by_byte() -> None:
    stream = b"PING\r\nMSG a 1 5\r\nhello\r\nMSG b 2 0\r\n\r\nHMSG c 3 2 4\r\nxxhi\r\nPONG\r\n"
    assert read(stream, range(len(stream))) == [
        ("ping",),
        ("message", 1, "a", b"hello"),
        ("message", 2, "b", b""),
        ("message", 3, "c", b"hi"),
        ("pong",),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"HELLO",
        b"",
        b"ping",
        b"MSG",
        b"MSG a",
        b"MSG a 1",
        b"MSG a 1 x",
        b"MSG a one 3",
        b"MSG a 1 -3",
        b"MSG a 1 +3",
        b"MSG a 1 1_0",
        b"MSG a 1 \xd9\xa3",
        b"MSG a 1 r s 3",
        b"MSG a 1 9999999999999999999999999",
        b"MSG a 1 %d" % (LIMIT_BYTES + 1),
        b"MSG a 99999999999999999999 1",
        b"HMSG a 1 3",
        b"HMSG a 1 4 3",
        b"HMSG a 1 r s 1 3",
        b"MSG\xff\xfe",
    ],
    ids=repr,
)
def test_a_line_that_is_no_nats_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(line + b"\r\n")


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ProtocolError):
        read(b"INFO " + b"x" * LINE_BYTES)


@pytest.mark.parametrize("size", [3, 2 * LINE_BYTES])
def test_a_message_longer_than_announced_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        read(b"MSG a 1 %d\r\n" % size + b"x" * (size + 2))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
@example(b"MSG a 1 3\r\nabcd\r\n", [])
@example(b"MSG \r\n", [])
def test_garbage_is_refused_or_not_yet_complete_and_never_anything_else(garbage: bytes, cuts: Sequence[int]) -> None:
    for stream in (garbage, b"MSG a 1 2\r\nhi\r\n" + garbage, b"MSG " + garbage + b"\r\n"):
        try:
            read(stream, cuts)
        except ProtocolError:
            continue


@given(messages(), st.integers(0, 60), st.integers(0, 255))
def test_a_flipped_byte_of_a_line_is_read_or_refused(message: tuple[bytes, Event], place: int, byte: int) -> None:
    damaged = bytearray(message[0])
    damaged[place % len(damaged)] = byte
    try:
        read(bytes(damaged))
    except ProtocolError:
        return


def test_a_large_message_is_received_into_the_same_memory_again() -> None:
    """Nothing is allocated per message: what arrives is as large as the buffer offered for it."""
    reader = Reader(Recorder())
    reader.payload_limit_bytes = LIMIT_BYTES
    offered = []
    for _ in range(3):
        line = b"MSG a 1 200000\r\n"
        reader.get_buffer()[: len(line)] = line
        reader.received(len(line))
        buffer = reader.get_buffer()
        assert len(buffer) == 200_002
        offered.append(buffer.obj)
        buffer[-2:] = b"\r\n"
        reader.received(len(buffer))
    assert offered[0] is offered[1] is offered[2]


@pytest.mark.parametrize("size", [5, 2 * LINE_BYTES])
def test_data_kept_beyond_the_call_can_no_longer_be_read(size: int) -> None:
    kept: list[memoryview] = []

    class Keeper(Recorder):
        def on_message(self, sid: int, subject: str, data: memoryview) -> None:
            kept.append(data)
            with pytest.raises(TypeError):
                data[0] = 1

    reader = Reader(Keeper())
    reader.payload_limit_bytes = LIMIT_BYTES
    for piece in (b"MSG a 1 %d\r\n" % size, b"x" * size + b"\r\n"):
        left = piece
        while left:
            buffer = reader.get_buffer()
            count = min(len(buffer), len(left))
            buffer[:count] = left[:count]
            reader.received(count)
            left = left[count:]
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])
