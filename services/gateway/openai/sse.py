"""Server-sent events: framing, keep-alives, and a writer that waits for its reader.

Knows bytes and aiohttp's response, not what the events say. The streaming routes call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import NamedTuple

from aiohttp import hdrs, web

from shared.errors import Cancelled

DONE = b"[DONE]"
KEEP_ALIVE = b": keep-alive\n\n"


class ServerEvent(NamedTuple):
    """`data` has no line breaks. `id` is what a client says when it connects again; empty: none."""

    data: bytes
    id: str = ""


class EventStream:
    """The answer to `request` as an event stream. The 200 and its headers go out with the first call of `send`.

    Every write waits until the client has read enough of what went before. One that reads nothing for
    `write_timeout_s` is cut off, and Cancelled is raised.
    """

    def __init__(self, request: web.Request, *, write_timeout_s: float) -> None:
        self._request = request
        self._write_timeout_s = write_timeout_s
        self.response = web.StreamResponse()
        self.response.content_type = "text/event-stream"
        self.response.charset = "utf-8"
        self.response.headers[hdrs.CACHE_CONTROL] = "no-cache"
        self.response.headers["X-Accel-Buffering"] = "no"

    @property
    def started(self) -> bool:
        """Whether the status has gone out, so that an error can only be an event any more."""
        return self.response.prepared

    async def send(self, events: Iterable[ServerEvent]) -> None:
        """Write each of `events` in one go."""
        await self._write(b"".join(map(_framed, events)))

    async def keep_alive(self) -> None:
        """Write a comment, which tells proxies that the stream lives and clients nothing."""
        await self._write(KEEP_ALIVE)

    async def close(self) -> None:
        """End the stream."""
        await self._in_time(self._end())

    async def _write(self, data: bytes) -> None:
        await self._in_time(self._prepare_and_write(data))

    async def _prepare_and_write(self, data: bytes) -> None:
        await self.response.prepare(self._request)
        await self.response.write(data)

    async def _end(self) -> None:
        await self.response.prepare(self._request)
        await self.response.write_eof()

    async def _in_time(self, writing: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await writing
        except TimeoutError as error:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise Cancelled("the client does not read its stream") from error


def _framed(event: ServerEvent) -> bytes:
    name = f"id: {event.id}\n".encode() if event.id else b""
    return name + b"data: " + event.data + b"\n\n"
