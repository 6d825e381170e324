"""The bus when its nats-server goes away and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from bus_servers import RestartableServer

from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.errors import DeadlineExceeded, Unavailable
from shared.protocol.wire import Message
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(40)


class Ask(Message, frozen=True, kw_only=True):
    text: str


async def echo(ask: Ask) -> Ask:
    return ask


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestartableServer]:
    process = RestartableServer(tmp_path)
    await process.start()
    yield process
    await process.stop()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    failures: list[BaseException] = []
    async with Tasks("bus test", failures.append) as owned:
        yield owned
    assert failures == []


class Peer(msgspec.Struct):
    """A connection with what it was told."""

    bus: Bus
    lost: asyncio.Event
    back: asyncio.Event


async def connected(server: RestartableServer, tasks: Tasks) -> Peer:
    lost, back = asyncio.Event(), asyncio.Event()
    bus = await Bus.connect(
        BusSettings(url=server.url, reconnect_wait_s=0.05),
        name="test",
        spawn=tasks.start,
        on_reconnect=back.set,
        on_loss=lambda _reason: lost.set(),
    )
    return Peer(bus, lost, back)


async def publish_without_end(bus: Bus) -> None:
    while True:
        await bus.publish("subject", bytes(1 << 20))


async def test_subscriptions_and_requests_go_on_after_a_restart(server: RestartableServer, tasks: Tasks) -> None:
    serving, asking = await connected(server, tasks), await connected(server, tasks)
    await serving.bus.serve("echo", Ask, echo)
    await serving.bus.flush()
    assert (await asking.bus.request("echo", Ask(text="before"), Ask, 5)).text == "before"

    await server.stop()
    for peer in (serving, asking):
        await peer.lost.wait()
        assert not peer.bus.connected
    await server.start()
    for peer in (serving, asking):
        await peer.back.wait()

    assert (await asking.bus.request("echo", Ask(text="after"), Ask, 5)).text == "after"
    await asking.bus.close()
    await serving.bus.close()


async def test_while_the_server_is_away(server: RestartableServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listening = await peer.bus.listen("subject", lambda _subject, data: heard.put_nowait(data))
    other = await peer.bus.listen("other", lambda _subject, data: heard.put_nowait(data))
    await server.stop()
    await peer.lost.wait()

    with pytest.raises(DeadlineExceeded):
        await peer.bus.request("subject", Ask(text=""), Ask, 0.05)
    with pytest.raises(Unavailable):
        await peer.bus.flush(timeout_s=0.05)
    with pytest.raises(Unavailable):
        await publish_without_end(peer.bus)
    await other.close()

    await server.start()
    await peer.back.wait()
    await peer.bus.flush()
    await peer.bus.publish("other", b"to nobody")
    await peer.bus.publish("subject", b"after")
    while await heard.get() != b"after":
        pass
    await listening.close()
    await peer.bus.close()


async def test_close_while_the_server_is_away_returns(server: RestartableServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks)
    listening = await peer.bus.listen("subject", lambda _subject, _data: None)
    await server.stop()
    await peer.lost.wait()
    await peer.bus.publish("subject", b"never sent")
    await listening.close()
    await peer.bus.close()
    await peer.bus.close()


async def test_connect_waits_for_a_server(server: RestartableServer, tasks: Tasks) -> None:
    await server.stop()
    connecting = tasks.start(connected(server, tasks), name="connect")
    done, _ = await asyncio.wait({connecting}, timeout=0.3)
    assert not done
    await server.start()
    peer = await connecting
    await peer.bus.flush()
    await peer.bus.close()


async def test_connecting_can_be_cancelled(server: RestartableServer, tasks: Tasks) -> None:
    await server.stop()
    connecting = tasks.start(connected(server, tasks), name="connect")
    await asyncio.wait({connecting}, timeout=0.2)
    connecting.cancel()
    await asyncio.wait({connecting})
    assert connecting.cancelled()


async def test_a_connection_that_is_given_up_is_replaced(server: RestartableServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks)
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    await peer.bus.listen("subject", lambda _subject, data: heard.put_nowait(data))
    peer.bus.redial("test")
    await peer.lost.wait()
    await peer.back.wait()
    await peer.bus.publish("subject", b"after")
    assert await heard.get() == b"after"
    assert peer.bus.reconnects == 1
    await peer.bus.close()
    peer.bus.redial("there is none")
