"""The data plane against a real nats-server, on asyncio's loop and on the one production uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from bus_servers import RestartableServer

from shared.bus.connection import Bus
from shared.bus.data_plane.connection import DataPlane
from shared.bus.outbox import Outbox
from shared.bus.settings import BusSettings
from shared.errors import PayloadTooLarge, ProtocolError, Unavailable
from shared.protocol.wire import Message, decode
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(30)

Connect = Callable[[], Awaitable[DataPlane]]


class Word(Message, frozen=True, kw_only=True):
    text: str


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    failures: list[BaseException] = []
    async with Tasks("data plane test", failures.append) as owned:
        yield owned
    assert failures == []


@pytest.fixture
async def connect(nats_url: str, tasks: Tasks) -> AsyncIterator[Connect]:
    opened: list[DataPlane] = []

    async def connect_one() -> DataPlane:
        opened.append(await DataPlane.connect(BusSettings(url=nats_url), name="test", spawn=tasks.start))
        return opened[-1]

    yield connect_one
    for plane in opened:
        await plane.close()


class Heard:
    """A listener that keeps copies."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def __call__(self, subject: str, data: memoryview) -> None:
        self.messages.put_nowait((subject, bytes(data)))


@pytest.mark.parametrize("size", [0, 1, 1000, 32 << 10, (32 << 10) + 1, 1 << 20, (8 << 20) - 100])
async def test_what_is_published_in_parts_is_heard_whole(connect: Connect, size: int) -> None:
    hearing, speaking = await connect(), await connect()
    heard = Heard()
    await hearing.listen("parts.*", heard)
    await hearing.flush()
    payload = bytes(range(256)) * (size // 256 + 1)
    for number in range(3):
        await speaking.publish_parts(f"parts.{number}", b"header:", memoryview(payload)[:size])
    for number in range(3):
        assert await heard.messages.get() == (f"parts.{number}", b"header:" + payload[:size])


async def test_messages_of_all_sizes_keep_their_order(connect: Connect) -> None:
    hearing, speaking = await connect(), await connect()
    heard = Heard()
    await hearing.listen("order", heard)
    await hearing.flush()
    sizes = [(number * 7919) % 90_000 for number in range(300)]
    for number, size in enumerate(sizes):
        await speaking.publish_parts("order", b"%d:" % number, bytes(size))
    for number, size in enumerate(sizes):
        assert await heard.messages.get() == ("order", b"%d:" % number + bytes(size))


async def test_it_talks_with_the_control_connections_client(nats_url: str, connect: Connect, tasks: Tasks) -> None:
    plane = await connect()
    bus = await Bus.connect(BusSettings(url=nats_url), name="other", spawn=tasks.start)
    heard = Heard()
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    await plane.listen("to.plane", heard)
    await bus.listen("to.bus", lambda _subject, data: answers.put_nowait(data))
    await plane.flush()
    await bus.flush()
    await bus.publish("to.plane", b"payload", headers={"with": "headers"}, reply="somewhere")
    await plane.send("to.bus", Word(text="hello"))
    assert await heard.messages.get() == ("to.plane", b"payload")
    assert decode(Word, await answers.get()).text == "hello"
    await bus.close()


async def test_a_closed_subscription_is_silent_and_others_are_not(connect: Connect) -> None:
    hearing, speaking = await connect(), await connect()
    silent, heard = Heard(), Heard()
    listening = await hearing.listen("word", silent)
    await hearing.listen("word", heard)
    assert hearing.subscriptions == 2
    await listening.close()
    await listening.close()
    assert hearing.subscriptions == 1
    await hearing.flush()
    await speaking.publish("word", b"x")
    await heard.messages.get()
    assert silent.messages.empty()


async def test_a_listener_that_raises_goes_on_listening(connect: Connect) -> None:
    plane = await connect()
    heard = Heard()

    def listener(subject: str, data: memoryview) -> None:
        if data == b"bad":
            raise KeyError("a defect")
        heard(subject, data)

    await plane.listen("word", listener)
    await plane.publish("word", b"bad")
    await plane.publish("word", b"good")
    assert await heard.messages.get() == ("word", b"good")


async def test_a_listener_may_publish_and_close(connect: Connect, tasks: Tasks) -> None:
    plane = await connect()
    outbox = Outbox(plane)
    tasks.start(outbox.run(), name="outbox")
    heard = Heard()
    await plane.listen("answer", heard)
    await plane.listen("ask", lambda _subject, _data: outbox.post("answer", Word(text="here")))
    await plane.publish("ask", b"")
    assert decode(Word, (await heard.messages.get())[1]).text == "here"


async def test_a_message_over_the_limit_is_refused_at_the_source(connect: Connect) -> None:
    plane = await connect()
    half = bytes(plane.max_payload // 2)
    with pytest.raises(PayloadTooLarge):
        await plane.publish_parts("large", half, half, b"x")
    await plane.publish_parts("large", half, half)
    await plane.flush()
    assert plane.connected


async def test_a_subject_that_is_none_is_refused(connect: Connect) -> None:
    plane = await connect()
    with pytest.raises(ProtocolError):
        await plane.publish("line\r\nPUB other 0", b"")
    with pytest.raises(ProtocolError):
        await plane.listen("two words", Heard())
    await plane.flush()


async def test_a_socket_that_takes_everything_leaves_turns_for_others(connect: Connect, tasks: Tasks) -> None:
    plane = await connect()
    turns = 0
    published = asyncio.Event()

    async def publish() -> None:
        for _ in range(20):
            await plane.publish("bulk", bytes(64 << 10))
        published.set()

    tasks.start(publish(), name="publish")
    while not published.is_set():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 20


async def test_when_flush_returns_the_server_knows_the_subscription(connect: Connect) -> None:
    hearing, speaking = await connect(), await connect()
    for number in range(50):
        heard = Heard()
        await hearing.listen(f"known.{number}", heard)
        await hearing.flush()
        await speaking.publish(f"known.{number}", b"x")
        await heard.messages.get()


async def test_close_sends_what_is_pending_and_then_nothing_works(connect: Connect, tasks: Tasks) -> None:
    hearing, speaking = await connect(), await connect()
    heard = Heard()
    await hearing.listen("last", heard)
    await hearing.flush()
    listening = await speaking.listen("other", heard)
    for _ in range(8):
        await speaking.publish("last", bytes(1 << 20))
    await speaking.close()
    await speaking.close()
    await listening.close()
    for _ in range(8):
        assert len((await heard.messages.get())[1]) == 1 << 20
    assert not speaking.connected
    for refused in (speaking.publish("last", b""), speaking.flush(), speaking.listen("last", heard)):
        with pytest.raises(Unavailable):
            await refused


class Peer(msgspec.Struct):
    """A data plane with what it was told."""

    plane: DataPlane
    lost: asyncio.Event
    back: asyncio.Event


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestartableServer]:
    process = RestartableServer(tmp_path)
    await process.start()
    yield process
    await process.stop()


async def reconnecting(server: RestartableServer, tasks: Tasks) -> Peer:
    lost, back = asyncio.Event(), asyncio.Event()
    plane = await DataPlane.connect(
        BusSettings(url=server.url, reconnect_wait_s=0.05),
        name="test",
        spawn=tasks.start,
        on_reconnect=back.set,
        on_loss=lambda _reason: lost.set(),
    )
    return Peer(plane, lost, back)


async def test_subscriptions_go_on_after_a_restart_and_publishers_wait_for_it(
    server: RestartableServer, tasks: Tasks
) -> None:
    hearing, speaking = await reconnecting(server, tasks), await reconnecting(server, tasks)
    heard = Heard()
    await hearing.plane.listen("before", heard)
    closed = await hearing.plane.listen("closed", heard)
    await server.stop()
    for peer in (hearing, speaking):
        await peer.lost.wait()
        assert not peer.plane.connected
    with pytest.raises(Unavailable):
        await hearing.plane.flush()
    await closed.close()
    await hearing.plane.listen("meanwhile", heard)
    publishing = tasks.start(speaking.plane.publish("to.nobody", bytes(1 << 20)), name="publish")

    await server.start()
    for peer in (hearing, speaking):
        await peer.back.wait()
    await publishing
    await hearing.plane.flush()
    for subject in ("closed", "before", "meanwhile"):
        await speaking.plane.publish(subject, b"after")
    assert [await heard.messages.get() for _ in range(2)] == [("before", b"after"), ("meanwhile", b"after")]
    await speaking.plane.close()
    await hearing.plane.close()


async def test_a_publisher_waits_for_a_connection_only_so_long(
    server: RestartableServer, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.data_plane.link.RECONNECT_PATIENCE_S", 0.05)
    peer = await reconnecting(server, tasks)
    await server.stop()
    await peer.lost.wait()
    with pytest.raises(Unavailable):
        await peer.plane.publish("subject", b"")
    await peer.plane.close()


async def test_connect_waits_for_a_server(server: RestartableServer, tasks: Tasks) -> None:
    await server.stop()
    connecting = tasks.start(reconnecting(server, tasks), name="connect")
    done, _ = await asyncio.wait({connecting}, timeout=0.3)
    assert not done
    await server.start()
    peer = await connecting
    await peer.plane.flush()
    await peer.plane.close()


async def test_close_while_the_server_is_away_ends_those_who_wait(server: RestartableServer, tasks: Tasks) -> None:
    peer = await reconnecting(server, tasks)
    await server.stop()
    await peer.lost.wait()
    publishing = asyncio.ensure_future(peer.plane.publish("subject", b""))
    await asyncio.sleep(0)
    await peer.plane.close()
    with pytest.raises(Unavailable):
        await publishing


async def test_a_connection_that_is_given_up_is_replaced(server: RestartableServer, tasks: Tasks) -> None:
    peer, heard = await reconnecting(server, tasks), asyncio.Event()
    await peer.plane.listen("subject", lambda _subject, _data: heard.set())
    peer.plane.redial("test")
    await peer.lost.wait()
    await peer.back.wait()
    await peer.plane.publish("subject", b"after")
    await heard.wait()
    await peer.plane.close()
    peer.plane.redial("there is none")
