"""A client of `baton.v1.generate`, in plain MessagePack over nats-py, as strangers write it."""

from __future__ import annotations

import asyncio

import msgpack
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.soak.ends import RETRY_AFTER_S, Lost, Refused
from benchmarks.soak.events import take_event
from benchmarks.soak.record import Record
from benchmarks.soak.request import LoadRequest

SUBJECT = "baton.v1.generate"
SILENT_S = 5.0


class NatsDoor:
    """Use `ask`, any number at once, between `open` and `close`.

    When the connection breaks, all its streams are lost: core NATS keeps no messages.
    """

    def __init__(self) -> None:
        self._client = Client()
        self._queues: set[asyncio.Queue[Msg | None]] = set()

    async def open(self, url: str) -> None:
        self._client = await nats.connect(
            url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            ping_interval=5,
            error_cb=_ignore,
            disconnected_cb=self._disconnected,
        )

    async def close(self) -> None:
        await self._client.close()

    async def ask(self, _url: str, request: LoadRequest, record: Record) -> None:
        """Return when the stream has ended well or the client has left it. Raises Refused, Lost, Failed."""
        if not self._client.is_connected:
            raise Refused("no NATS", RETRY_AFTER_S)
        queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            await self._subscribed(queue, request, record)
        except (nats.errors.Error, ConnectionError) as error:
            raise Lost(f"{type(error).__name__}: {error}") from error
        finally:
            self._queues.discard(queue)

    async def _subscribed(self, queue: asyncio.Queue[Msg | None], request: LoadRequest, record: Record) -> None:
        async def hear(message: Msg) -> None:
            queue.put_nowait(message)

        inbox = await self._client.subscribe(self._client.new_inbox(), cb=hear)
        try:
            await self._client.publish(SUBJECT, _message(request, record), reply=inbox.subject)
            await self._read(queue, request, record)
        finally:
            await inbox.unsubscribe()

    async def _read(self, queue: asyncio.Queue[Msg | None], request: LoadRequest, record: Record) -> None:
        cancel_subject, left = "", False
        while True:
            message = await _next(queue)
            event = msgpack.unpackb(message.data)
            cancel_subject = event.get("cancel_subject", cancel_subject)
            if take_event(event, record, left=left, resumable=request.resumable):
                return
            if record.wants_to_leave and not left:
                if not request.polite:
                    return
                left = True
                await self._client.publish(cancel_subject, b"")
            if request.pause_s:
                await asyncio.sleep(request.pause_s)

    async def _disconnected(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)


def _message(request: LoadRequest, record: Record) -> bytes:
    resume = {"resume": record.session, "after": len(record.tokens)}
    generate = {"resumable": request.resumable, **request.question.body}
    return bytes(msgpack.packb({"v": 1, **(resume if record.resumes else generate)}))


async def _next(queue: asyncio.Queue[Msg | None]) -> Msg:
    try:
        async with asyncio.timeout(SILENT_S):
            message = await queue.get()
    except TimeoutError:
        raise Lost(f"silent for {SILENT_S:.0f} s") from None
    if message is None:
        raise Lost("the client's connection broke")
    if (message.headers or {}).get("Status") == "503":
        raise Refused("no gateway listens", RETRY_AFTER_S)
    return message


async def _ignore(_error: Exception) -> None:
    """The connection's troubles are the soak's doing."""
