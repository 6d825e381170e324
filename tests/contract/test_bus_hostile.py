"""Bytes on the subject lines and in headers that are no text: dropped one by one, nobody goes deaf."""

from __future__ import annotations

import asyncio
from urllib.parse import urlparse

import pytest

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)


def _with_headers(subject: bytes, headers: bytes) -> bytes:
    return b"HPUB %b %d %d\r\n%b\r\n" % (subject, len(headers), len(headers), headers)


@pytest.mark.parametrize(
    ("hostile", "is_heard"),
    [
        pytest.param(lambda root: b"PUB %b.\xff\xfe 1\r\nx\r\n" % root, False, id="subject"),
        pytest.param(lambda root: b"PUB %b.a r\xff 1\r\nx\r\n" % root, False, id="reply subject"),
        pytest.param(lambda root: _with_headers(root + b".a", b"NATS/1.0 \xff\xff\xff\r\n\r\n"), True, id="status"),
        pytest.param(lambda root: _with_headers(root + b".a", b"NATS/1.0 503 \xff\r\n\r\n"), True, id="description"),
        pytest.param(lambda root: _with_headers(root + b".a", b"NATS/1.0\r\n\xff: \xff\r\n\r\n"), True, id="header"),
        pytest.param(lambda root: _with_headers(root + b".a", b"NATS/1.0"), True, id="no end of headers"),
        pytest.param(lambda root: _with_headers(root + b".a", b"x"), True, id="no headers at all"),
    ],
)
async def test_the_connection_hears_what_comes_after(nats_url: str, hostile: object, is_heard: bool) -> None:
    async with Tasks("test") as tasks:
        bus = await Bus.connect(BusSettings(url=nats_url), name="test", spawn=tasks.start)
        root = bus.inbox()
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        await bus.listen(f"{root}.>", lambda _subject, data: heard.put_nowait(data))
        await bus.flush()
        address = urlparse(nats_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        writer.write(hostile(root.encode()))  # type: ignore[operator]
        writer.write(b"PUB %b.after 5\r\nafter\r\n" % root.encode())
        await writer.drain()
        if is_heard:
            assert await heard.get() != b"after"
        assert await heard.get() == b"after"
        assert reader is not None
        writer.close()
        await writer.wait_closed()
        await bus.close()
