"""The WebSocket door through real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from scripted_generator import ScriptedGenerator, delta

from services.gateway.generation import Delta, GenerationRequest
from services.gateway.http import runner
from services.gateway.openai.errors import errors_middleware
from services.gateway.requests import RequestBuilder
from services.gateway.websocket.door import WebSocketDoor
from services.gateway.websocket.settings import CloseCode, SocketSettings
from shared.core import FinishReason

ASK = {"type": "generate", "id": "a", "prompt": "hi"}


class Served:
    """The door, served, and where."""

    def __init__(self, door: WebSocketDoor, running: web.AppRunner) -> None:
        self.door = door
        self.host, self.port = running.addresses[0][:2]
        self.url = f"http://{self.host}:{self.port}/v1/stream"


@contextlib.asynccontextmanager
async def serving(
    generator: ScriptedGenerator, builder: RequestBuilder, settings: SocketSettings
) -> AsyncIterator[Served]:
    door = WebSocketDoor(generator, builder, settings)
    app = web.Application(middlewares=[errors_middleware])
    door.register(app)
    running = runner(app)
    await running.setup()
    await web.TCPSite(running, "127.0.0.1", 0).start()
    yield Served(door, running)
    await door.close()
    await running.cleanup()
    assert generator.live == 0
    assert len(door) == 0


@pytest.fixture
def socket_settings() -> SocketSettings:
    return SocketSettings(generation_limit=4, frame_limit_bytes=20_000, notice_limit=8, close_timeout_s=0.5)


@pytest.fixture
async def served(
    generator: ScriptedGenerator, builder: RequestBuilder, socket_settings: SocketSettings
) -> AsyncIterator[Served]:
    async with serving(generator, builder, socket_settings) as up:
        yield up


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


@pytest.fixture
async def ws(served: Served, session: aiohttp.ClientSession) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with session.ws_connect(served.url) as connection:
        yield connection


async def forever(request: GenerationRequest) -> AsyncIterator[Delta]:
    yield delta("x")
    await asyncio.Event().wait()


async def until(ws: aiohttp.ClientWebSocketResponse, kind: str) -> list[dict[str, Any]]:
    """The events up to the first of `kind`."""
    events = []
    while not events or events[-1]["type"] != kind:
        events.append(await ws.receive_json())
    return events


async def closed(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    """Read to the end: the close code."""
    while (await ws.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR):
        pass
    return ws.close_code


async def test_a_generation_on_the_wire(ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.send_json(ASK)
    events = await until(ws, "finished")
    assert events[0] == {
        "type": "started",
        "v": 1,
        "seq": 0,
        "id": "a",
        "n": 0,
        "session": "0" * 32,
        "model": "tiny",
        "prompt_tokens": 3,
    }
    assert [event["seq"] for event in events] == list(range(len(events)))
    deltas = [event for event in events if event["type"] == "delta"]
    assert set(deltas[0]) == {"type", "v", "seq", "id", "n", "index", "text", "token_ids"}
    assert "".join(event["text"] for event in deltas) == "Hello world"
    assert events[-1]["finish_reason"] == "stop"
    assert events[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 11, "total_tokens": 14}


async def test_two_at_once_keep_their_own_numbers(ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.send_json(ASK)
    await ws.send_json(ASK | {"id": "b"})
    events = await until(ws, "finished") + await until(ws, "finished")
    assert [event["seq"] for event in events] == list(range(len(events)))
    for name in "ab":
        own = [event["n"] for event in events if event["id"] == name]
        assert own == list(range(len(own)))


async def test_cancel(ws: aiohttp.ClientWebSocketResponse, generator: ScriptedGenerator) -> None:
    generator.script = forever
    await ws.send_json(ASK)
    await until(ws, "delta")
    await ws.send_json({"type": "cancel", "id": "a"})
    assert (await until(ws, "finished"))[-1]["finish_reason"] == "cancelled"
    assert generator.live == 0


async def test_closing_the_socket_cancels_everything(
    ws: aiohttp.ClientWebSocketResponse, generator: ScriptedGenerator
) -> None:
    generator.script = forever
    await ws.send_json(ASK)
    await ws.send_json(ASK | {"id": "b"})
    await until(ws, "delta")
    await ws.close()
    await generator.idle.wait()
    assert generator.cancelled == 2


async def test_a_client_that_vanishes_cancels_everything(served: Served, generator: ScriptedGenerator) -> None:
    generator.script = forever
    async with aiohttp.ClientSession() as session:
        connection = await session.ws_connect(served.url)
        await connection.send_json(ASK)
        await until(connection, "delta")
        assert connection._response.connection is not None
        transport = connection._response.connection.transport
        assert transport is not None
        transport.abort()
    await generator.idle.wait()


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ("{", None),
        ("[]", None),
        ('"x"', None),
        ("", None),
        ('{"type": NaN}', None),
        ('{"type": "ping", "type": "ping"}', "type"),
        ("[" * 5000, None),
        ('{"type": "dance"}', "type"),
        ('{"type": "generate"}', "id"),
        ('{"type": "generate", "id": {}}', "id"),
    ],
)
async def test_a_bad_message_is_an_event_and_the_socket_lives(
    ws: aiohttp.ClientWebSocketResponse, frame: str, param: str | None
) -> None:
    await ws.send_str(frame)
    event = await ws.receive_json()
    assert event["type"] == "error"
    assert event["code"] == "invalid_request"
    assert event.get("param") == param
    assert "n" not in event
    await ws.send_json({"type": "ping"})
    assert (await ws.receive_json())["type"] == "pong"


async def test_a_refusal_names_the_id(ws: aiohttp.ClientWebSocketResponse, generator: ScriptedGenerator) -> None:
    generator.script = forever
    await ws.send_json(ASK)
    await until(ws, "delta")
    await ws.send_json(ASK)
    event = await ws.receive_json()
    assert (event["type"], event["id"], event["param"]) == ("error", "a", "id")
    assert "n" not in event


async def test_a_binary_frame_closes_with_1003(ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.send_bytes(b"{}")
    assert await closed(ws) == CloseCode.UNSUPPORTED_DATA


async def test_a_huge_frame_closes_with_1009(ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.send_str("x" * 20_001)
    assert await closed(ws) == 1009


async def test_bad_utf8_closes_with_1007(ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.send_frame(b"\xff\xfe", WSMsgType.TEXT)
    assert await closed(ws) == 1007


async def test_a_client_that_sends_and_never_reads_is_closed(served: Served) -> None:
    async with stuck_client(served) as (_reader, writer):
        frame = masked_text(b'{"type":"nonsense-%s"}' % (b"x" * 4000))
        with contextlib.suppress(ConnectionError):
            for _ in range(20_000):
                writer.write(frame)
                await writer.drain()
                if not len(served.door):
                    break
        await asyncio.wait_for(served.door.drain(), 20)


async def test_a_stuck_client_is_cut_and_others_are_not(
    generator: ScriptedGenerator, builder: RequestBuilder, session: aiohttp.ClientSession
) -> None:
    async def chatter(request: GenerationRequest) -> AsyncIterator[Delta]:
        if request.prompt_ids[-1] == ord("i"):
            yield delta("done", FinishReason.STOP)
            return
        while True:
            yield delta("x" * 2000)
            await asyncio.sleep(0)

    generator.script = chatter
    settings = SocketSettings(stall_timeout_s=0.3, close_timeout_s=0.1, send_buffer_bytes=8192)
    async with serving(generator, builder, settings) as served, stuck_client(served) as (_reader, writer):
        writer.write(masked_text(json.dumps(ASK | {"prompt": "ho"}).encode()))
        await generator.started.wait()
        async with session.ws_connect(served.url) as other:
            await generator.idle.wait()
            await other.send_json(ASK)
            assert (await until(other, "finished"))[-1]["finish_reason"] == "stop"


async def test_a_slow_reader_gets_everything_in_fewer_events(
    generator: ScriptedGenerator, builder: RequestBuilder, session: aiohttp.ClientSession
) -> None:
    pieces = 3000

    async def chatter(request: GenerationRequest) -> AsyncIterator[Delta]:
        for _ in range(pieces):
            yield delta("0123456789" * 5)
            await asyncio.sleep(0)
        yield delta(".", FinishReason.STOP)
        said_all.set()

    said_all = asyncio.Event()
    generator.script = chatter
    settings = SocketSettings(send_buffer_bytes=4096, pending_limit_bytes=8 << 20)
    async with serving(generator, builder, settings) as served, stuck_client(served) as (reader, writer):
        writer.write(masked_text(json.dumps(ASK).encode()))
        await said_all.wait()
        events = []
        while not events or events[-1]["type"] != "finished":
            events.append(json.loads(await text_frame(reader)))
    deltas = [event for event in events if event["type"] == "delta"]
    assert len(deltas) < pieces
    assert "".join(event["text"] for event in deltas) == "0123456789" * 5 * pieces + "."
    assert [event["n"] for event in events] == list(range(len(events)))
    assert [event["index"] for event in deltas] == [
        sum(len(before["token_ids"]) for before in deltas[:position]) for position in range(len(deltas))
    ]


async def test_drain_lets_generations_end_and_closes_with_1001(
    served: Served, ws: aiohttp.ClientWebSocketResponse, generator: ScriptedGenerator
) -> None:
    go = asyncio.Event()

    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        yield delta("x")
        await go.wait()
        yield delta("y", FinishReason.STOP)

    generator.script = script
    await ws.send_json(ASK)
    await until(ws, "delta")
    draining = asyncio.ensure_future(served.door.drain())
    await asyncio.sleep(0)
    await ws.send_json(ASK | {"id": "late"})
    refused = await ws.receive_json()
    assert (refused["id"], refused["code"]) == ("late", "draining")
    assert refused["retry_after_ms"] > 0
    go.set()
    assert (await until(ws, "finished"))[-1]["finish_reason"] == "stop"
    assert await closed(ws) == CloseCode.GOING_AWAY
    await draining


async def test_drain_closes_idle_sockets_at_once(served: Served, ws: aiohttp.ClientWebSocketResponse) -> None:
    await ws.send_json({"type": "ping"})
    await ws.receive_json()
    draining = asyncio.ensure_future(served.door.drain())
    assert await closed(ws) == CloseCode.GOING_AWAY
    await draining


async def test_a_plain_get_is_told_what_this_is(served: Served, session: aiohttp.ClientSession) -> None:
    async with session.get(served.url) as response:
        assert response.status == 400
        assert (await response.json())["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(("origin", "status"), [("http://evil.example", 403), ("null", 403)])
async def test_foreign_pages_may_not_connect(
    served: Served, session: aiohttp.ClientSession, origin: str, status: int
) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await session.ws_connect(served.url, origin=origin)
    assert caught.value.status == status


async def test_pages_of_the_gateway_itself_may_connect(served: Served, session: aiohttp.ClientSession) -> None:
    async with session.ws_connect(served.url, origin=f"http://{served.host}:{served.port}") as ws:
        await ws.send_json({"type": "ping"})
        assert (await ws.receive_json())["type"] == "pong"


async def test_a_silent_client_is_found_by_the_heartbeat(generator: ScriptedGenerator, builder: RequestBuilder) -> None:
    generator.script = forever
    settings = SocketSettings(heartbeat_s=0.2)
    async with serving(generator, builder, settings) as served, stuck_client(served) as (_reader, writer):
        writer.write(masked_text(json.dumps(ASK).encode()))
        await generator.started.wait()
        await generator.idle.wait()


@contextlib.asynccontextmanager
async def stuck_client(served: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket client that reads only what the test reads, and answers no pings."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (served.host, served.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=4096)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    yield reader, writer
    writer.transport.abort()


def masked_text(payload: bytes) -> bytes:
    """A client's text frame, masked with zeros."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0x80 | 126]) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


async def text_frame(reader: asyncio.StreamReader) -> bytes:
    """The payload of the server's next text frame."""
    _opcode, size = await reader.readexactly(2)
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return await reader.readexactly(size)
