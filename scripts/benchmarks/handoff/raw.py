"""As many bytes through the server as sockets can move: no parsing, no copies, no checks; credit so that none is lost.

The messages are as long as the hand-off's chunks, header included.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from benchmarks.handoff.plan import SLICE_TOKENS, SPEC, Order, Times
from shared.core import KvRegion
from shared.kv.plan import split_region
from shared.protocol.kv_chunk import HEADER_BYTES

DATA = "bench.data"
CREDIT = "bench.credit"
GRANT_STEP = 4
RECEIVE_BYTES = 4 << 20


class RawSender:
    """Connect, wait for the word, `move`."""

    def __init__(self, order: Order) -> None:
        self._socket = _connect(order.url, CREDIT)
        self._order = order

    def move(self) -> Times:
        started_s, cpu_s = time.monotonic(), time.process_time()
        payload = bytes(_message_bytes(self._order))
        line = f"PUB {DATA} {len(payload)}\r\n".encode()
        sent_bytes = 0
        granted_bytes = self._order.raw_window_bytes
        for _ in range(_messages(self._order)):
            while sent_bytes + len(payload) > granted_bytes:
                granted_bytes = max(granted_bytes, self._granted())
            _send(self._socket, line, payload, b"\r\n")
            sent_bytes += len(payload)
        # A socket closed with credit unread would take what the server has not read yet with it.
        self._socket.sendall(b"PING\r\n")
        received = b""
        while b"PONG" not in received:
            received = received[-len(b"PONG") :] + self._socket.recv(1 << 16)
        return Times(started_s=started_s, cpu_s=time.process_time() - cpu_s)

    def close(self) -> None:
        self._socket.close()

    def _granted(self) -> int:
        """The newest total among the credit messages that have come."""
        received = self._socket.recv(1 << 16)
        return max((int(line) for line in received.split(b"\r\n") if line.isdigit()), default=0)


class RawReceiver:
    """Connect, then `move`."""

    def __init__(self, order: Order) -> None:
        self._socket = _connect(order.url, DATA)
        self._order = order

    def move(self) -> Times:
        buffer = memoryview(bytearray(RECEIVE_BYTES))
        window_bytes = self._order.raw_window_bytes
        overhead = _message_bytes(self._order) + len(f"MSG {DATA} 1 {_message_bytes(self._order)}\r\n\r\n")
        expected_bytes = _messages(self._order) * overhead
        cpu_s = time.process_time()
        taken_bytes, granted_bytes = 0, window_bytes
        while taken_bytes < expected_bytes:
            count = self._socket.recv_into(buffer)
            if not count:
                raise ConnectionError(f"the server hung up after {taken_bytes} of {expected_bytes} bytes")
            taken_bytes += count
            if taken_bytes + window_bytes - granted_bytes >= window_bytes // GRANT_STEP:
                granted_bytes = taken_bytes + window_bytes
                total = str(granted_bytes).encode()
                self._socket.sendall(b"PUB %b %d\r\n%b\r\n" % (CREDIT.encode(), len(total), total))
        return Times(ended_s=time.monotonic(), cpu_s=time.process_time() - cpu_s)

    def close(self) -> None:
        self._socket.close()


def _message_bytes(order: Order) -> int:
    slice_region = KvRegion(0, SPEC.layout.layers, 0, SLICE_TOKENS)
    first = next(split_region(SPEC.layout, slice_region, order.chunk_bytes))
    return HEADER_BYTES + first.size_bytes(SPEC.layout)


def _messages(order: Order) -> int:
    return -(-order.payload_bytes // _message_bytes(order))


def _connect(url: str, subject: str) -> socket.socket:
    """Connected, subscribed to `subject`, with nothing left to read."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB %b 1\r\nPING\r\n' % subject.encode())
    received = b""
    while not received.endswith(b"PONG\r\n"):
        received += connection.recv(1 << 16)
    return connection


def _send(connection: socket.socket, *parts: bytes) -> None:
    views = [memoryview(part) for part in parts]
    while views:
        sent = connection.sendmsg(views)
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if views:
            views[0] = views[0][sent:]
