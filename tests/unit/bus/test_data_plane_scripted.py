"""What the data plane owes when the server is unusual: garbage, errors, silence, a full socket."""

from __future__ import annotations

import asyncio
from asyncio import selector_events
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import pytest
from scripted_server import ScriptedServer

from shared.bus.data_plane.connection import DataPlane
from shared.bus.settings import BusSettings
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    failures: list[BaseException] = []
    async with Tasks("test", failures.append) as owned:
        yield owned
    assert failures == []


class Peer(msgspec.Struct):
    """A data plane with what it was told."""

    plane: DataPlane
    losses: list[str]
    lost: asyncio.Event
    back: asyncio.Event


async def connected(server: ScriptedServer, tasks: Tasks, ping_interval_s: float = 5) -> Peer:
    losses: list[str] = []
    lost, back = asyncio.Event(), asyncio.Event()

    def lose(reason: str) -> None:
        losses.append(reason)
        lost.set()

    settings = BusSettings(url=server.url, reconnect_wait_s=0.01, ping_interval_s=ping_interval_s)  # type: ignore[arg-type]
    plane = await DataPlane.connect(settings, name="test", spawn=tasks.start, on_reconnect=back.set, on_loss=lose)
    return Peer(plane, losses, lost, back)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG heard 1 1000000000\r\n",
        b"MSG heard 1 2\r\nhello\r\n",
        b"INFO nonsense\r\n",
        b'INFO {"max_payload":0}\r\n',
        b"x" * 40_000,
        b"-ERR 'Stale Connection'\r\n",
    ],
    ids=lambda garbage: garbage[:20],
)
async def test_after_garbage_it_connects_anew_and_subscribes_again(
    server: ScriptedServer, tasks: Tasks, garbage: bytes
) -> None:
    peer = await connected(server, tasks)
    await peer.plane.listen("heard", lambda _subject, _data: None)
    await peer.plane.flush()
    server.commands.clear()
    await server.say(garbage)
    await peer.back.wait()
    await peer.plane.flush()
    assert server.commands[0].startswith(b"CONNECT ")
    assert b"SUB heard 1" in server.commands
    assert peer.losses == ["disconnected"]
    await peer.plane.close()


async def test_a_violation_of_permissions_does_not_end_the_connection(server: ScriptedServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks)
    await server.say(b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n")
    await peer.plane.flush()
    assert peer.plane.connected
    assert peer.losses == []
    await peer.plane.close()


async def test_a_server_that_pings_is_answered(server: ScriptedServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks)
    await server.say(b"PING\r\n")
    await peer.plane.flush()
    await peer.plane.flush()
    assert b"PONG" in server.commands
    await peer.plane.close()


async def test_a_server_that_answers_no_pings_is_left(server: ScriptedServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks, ping_interval_s=0.02)
    server.hears.clear()
    await peer.lost.wait()
    server.hears.set()
    await peer.back.wait()
    await peer.plane.close()


async def test_pings_that_are_answered_keep_the_connection(server: ScriptedServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks, ping_interval_s=0.05)
    await server.has_heard(b"PING", 5)
    assert peer.losses == []
    await peer.plane.close()


def overlook_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asyncio's own transport does in Python 3.12 before 3.12.9, and in 3.13 before 3.13.2."""
    transport: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    real = transport.writelines

    def writelines(self: Any, parts: Iterable[bytes]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(self, "_maybe_pause_protocol", lambda: None)
            real(self, parts)

    monkeypatch.setattr(transport, "writelines", writelines)


@pytest.mark.parametrize("overlooks", [False, True])
async def test_a_full_socket_holds_the_publisher_back_until_it_can_go_on(
    server: ScriptedServer, tasks: Tasks, monkeypatch: pytest.MonkeyPatch, overlooks: bool
) -> None:
    if overlooks:
        overlook_the_limit(monkeypatch)
    peer = await connected(server, tasks)
    server.hears.clear()
    published = 0

    async def publish() -> None:
        nonlocal published
        for _ in range(32):
            await peer.plane.publish("bulk", bytes(1 << 20))
            published += 1

    publishing = tasks.start(publish(), name="publish")
    await asyncio.wait({publishing}, timeout=0.3)
    assert published < 32
    server.hears.set()
    await publishing
    await peer.plane.flush()
    assert server.commands.count(b"PUB bulk %d" % (1 << 20)) == 32
    await peer.plane.close()


async def test_a_publish_into_a_full_socket_can_be_cancelled(server: ScriptedServer, tasks: Tasks) -> None:
    peer = await connected(server, tasks)
    server.hears.clear()

    async def publish_without_end() -> None:
        while True:
            await peer.plane.publish("bulk", bytes(1 << 20))

    publishing = tasks.start(publish_without_end(), name="publish")
    await asyncio.wait({publishing}, timeout=0.3)
    publishing.cancel()
    await asyncio.wait({publishing})
    assert publishing.cancelled()
    server.hears.set()
    await peer.plane.close()


async def test_a_publisher_that_waits_for_the_socket_goes_on_over_the_next_connection(
    server: ScriptedServer, tasks: Tasks
) -> None:
    peer = await connected(server, tasks)
    server.hears.clear()

    async def publish() -> None:
        for _ in range(32):
            await peer.plane.publish("bulk", bytes(1 << 20))

    publishing = tasks.start(publish(), name="publish")
    await asyncio.wait({publishing}, timeout=0.3)
    server.hears.set()
    await server.end(b"Maximum Connections Exceeded")
    await peer.back.wait()
    await publishing
    await peer.plane.flush()
    await peer.plane.close()


@pytest.mark.parametrize("steps", range(0, 40, 3))
async def test_a_connect_can_be_cancelled_at_any_step_and_leaves_nothing(
    server: ScriptedServer, tasks: Tasks, steps: int
) -> None:
    connecting = tasks.start(connected(server, tasks), name="connect")
    for _ in range(steps):
        await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait({connecting})
    if not connecting.cancelled():
        await connecting.result().plane.close()
    await tasks.drain()


async def test_a_server_that_says_nothing_is_left_for_another_try(
    server: ScriptedServer, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.data_plane.dial.CONNECT_TIMEOUT_S", 0.05)
    server.hears.clear()
    connecting = tasks.start(connected(server, tasks), name="connect")
    await server.has_heard(b"CONNECT", 3)
    server.hears.set()
    peer = await connecting
    await peer.plane.close()
