"""What the bus owes when the server is unusual: order on the socket, a connection ended for good, a full socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scripted_server import ScriptedServer

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.errors import Unavailable
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as scripted:
        yield scripted


async def connect(server: ScriptedServer, tasks: Tasks) -> Bus:
    return await Bus.connect(BusSettings(url=server.url), name="test", spawn=tasks.start)


async def test_flush_returns_after_the_server_read_subscriptions_and_messages(server: ScriptedServer) -> None:
    async with Tasks("test") as tasks:
        bus = await connect(server, tasks)
        await bus.listen("heard", lambda _subject, _data: None)
        await bus.publish("said", b"x")
        await bus.flush()
        read = list(server.commands)
        await bus.close()
    last_ping = max(index for index, command in enumerate(read) if command == b"PING")
    assert [b"SUB heard  1" in read[:last_ping], b"PUB said  1" in read[:last_ping]] == [True, True]


async def test_drain_returns_after_the_server_read_the_unsubscription(server: ScriptedServer) -> None:
    """What the server sent before it read that has arrived by then."""
    async with Tasks("test") as tasks:
        bus = await connect(server, tasks)
        listening = await bus.listen("heard", lambda _subject, _data: None)
        await bus.flush()
        server.commands.clear()
        await listening.drain()
        read = list(server.commands)
        await bus.close()
    last_ping = max(index for index, command in enumerate(read) if command == b"PING")
    assert b"UNSUB 1" in [command.strip() for command in read[:last_ping]]


@pytest.mark.parametrize("error", [b"Maximum Connections Exceeded", b"Authorization Violation"])
async def test_a_connection_ended_for_good_fails_a_task(server: ScriptedServer, error: bytes) -> None:
    """nats-py does not reconnect then: without this the process would live on and hear nothing."""
    failed: asyncio.Queue[BaseException] = asyncio.Queue()
    async with Tasks("test", failed.put_nowait) as tasks:
        bus = await connect(server, tasks)
        await server.end(error)
        assert isinstance(await failed.get(), Unavailable)
        assert not bus.connected
        await bus.close()


async def test_a_close_of_our_own_fails_no_task(server: ScriptedServer) -> None:
    failures: list[BaseException] = []
    async with Tasks("test", failures.append) as tasks:
        bus = await connect(server, tasks)
        await bus.close()
    assert failures == []


async def test_a_publish_into_a_full_socket_can_be_cancelled(server: ScriptedServer) -> None:
    async with Tasks("test") as tasks:
        bus = await connect(server, tasks)
        server.hears.clear()

        async def publish_without_end() -> None:
            while True:
                await bus.publish("bulk", bytes(1 << 20))

        publishing = tasks.start(publish_without_end(), name="publish")
        await asyncio.wait({publishing}, timeout=0.3)
        assert not publishing.done()
        publishing.cancel()
        await asyncio.wait({publishing})
        assert publishing.cancelled()
        server.hears.set()
        await bus.close()
