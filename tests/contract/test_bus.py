"""The bus against a real nats-server: requests, answers, errors that cross it, listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgpack
import pytest
from nats.aio.msg import Msg

from shared.bus.connection import Bus, Unreached
from shared.bus.outbox import Outbox
from shared.bus.reply_errors import ERROR_HEADER
from shared.bus.settings import BusSettings
from shared.errors import (
    BatonError,
    ContextExceeded,
    DeadlineExceeded,
    KvExhausted,
    Overloaded,
    PayloadTooLarge,
    ProtocolError,
    Unavailable,
)
from shared.protocol.wire import Message, decode, encode
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)


class Ask(Message, frozen=True, kw_only=True):
    text: str


class Answer(Message, frozen=True, kw_only=True):
    text: str


Connect = Callable[[], Awaitable[Bus]]


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """Fails the test when a task of the bus ends with an error: in a service that would end the process."""
    failures: list[BaseException] = []
    async with Tasks("bus test", failures.append) as owned:
        yield owned
    assert failures == []


@pytest.fixture
async def connect(nats_url: str, tasks: Tasks) -> AsyncIterator[Connect]:
    opened: list[Bus] = []

    async def connect_one() -> Bus:
        opened.append(await Bus.connect(BusSettings(url=nats_url), name="test", spawn=tasks.start))
        return opened[-1]

    yield connect_one
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    return await connect()


@pytest.fixture
async def client(connect: Connect) -> Bus:
    """Another process's connection."""
    return await connect()


async def echo(ask: Ask) -> Answer:
    return Answer(text=ask.text)


async def served(bus: Bus, handler: Callable[[Ask], Awaitable[Message]]) -> str:
    """A subject on which `handler` answers."""
    subject = bus.inbox()
    await bus.serve(subject, Ask, handler)
    await bus.flush()
    return subject


async def test_a_request_is_answered(bus: Bus, client: Bus) -> None:
    subject = await served(bus, echo)
    assert await client.request(subject, Ask(text="hello"), Answer, 5) == Answer(text="hello")


async def test_slow_requests_do_not_hold_up_others(bus: Bus, client: Bus) -> None:
    release = asyncio.Event()

    async def handler(ask: Ask) -> Answer:
        if ask.text == "slow":
            await release.wait()
        return Answer(text=ask.text)

    subject = await served(bus, handler)
    slow = asyncio.ensure_future(client.request(subject, Ask(text="slow"), Answer, 10))
    assert (await client.request(subject, Ask(text="quick"), Answer, 5)).text == "quick"
    release.set()
    assert (await slow).text == "slow"


@pytest.mark.parametrize(
    "error",
    [
        KvExhausted("no memory", retry_after_ms=250),
        Overloaded("full", retry_after_ms=1000),
        ContextExceeded("too long", param="prompt"),
        BatonError("something else: ü"),
    ],
    ids=lambda error: error.code,
)
async def test_an_error_crosses_the_bus_as_itself(bus: Bus, client: Bus, error: BatonError) -> None:
    async def handler(_ask: Ask) -> Answer:
        raise error

    subject = await served(bus, handler)
    with pytest.raises(type(error)) as raised:
        await client.request(subject, Ask(text=""), Answer, 5)
    assert type(raised.value) is type(error)
    assert raised.value.info == error.info


async def test_an_unforeseen_error_is_answered_as_internal(bus: Bus, client: Bus) -> None:
    async def handler(_ask: Ask) -> Answer:
        raise KeyError("a defect")

    subject = await served(bus, handler)
    with pytest.raises(BatonError, match="KeyError") as raised:
        await client.request(subject, Ask(text=""), Answer, 5)
    assert raised.value.code == "internal"


async def test_an_answer_that_cannot_be_encoded_is_answered_as_internal(bus: Bus, client: Bus) -> None:
    class Huge(Message, frozen=True, kw_only=True):
        number: int

    async def handler(_ask: Ask) -> Message:
        return Huge(number=1 << 70)

    subject = await served(bus, handler)
    with pytest.raises(BatonError, match="OverflowError"):
        await client.request(subject, Ask(text=""), Answer, 5)


async def test_an_answer_that_is_too_large_is_answered_as_such(bus: Bus, client: Bus) -> None:
    async def handler(_ask: Ask) -> Answer:
        return Answer(text="x" * bus.max_payload)

    subject = await served(bus, handler)
    with pytest.raises(PayloadTooLarge):
        await client.request(subject, Ask(text=""), Answer, 5)
    assert bus.connected


async def test_nobody_there_is_unavailable_at_once(client: Bus) -> None:
    with pytest.raises(Unavailable, match="nobody"):
        await client.request(client.inbox(), Ask(text=""), Answer, 10)


async def test_silence_is_deadline_exceeded(bus: Bus, client: Bus) -> None:
    subject = bus.inbox()
    await bus.listen(subject, lambda _subject, _data: None)
    await bus.flush()
    with pytest.raises(DeadlineExceeded):
        await client.request(subject, Ask(text=""), Answer, 0.05)


@pytest.mark.parametrize("garbage", [b"", b"garbage", msgpack.packb({"v": 2, "text": "x"}), b"\x91" * 5000], ids=repr)
async def test_a_garbage_request_is_answered_with_a_protocol_error(bus: Bus, client: Bus, garbage: bytes) -> None:
    subject = await served(bus, echo)
    inbox = client.inbox()
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    await client.listen_raw(inbox, answers.put_nowait)
    await client.publish(subject, garbage, reply=inbox)
    answer = await answers.get()
    assert answer.headers[ERROR_HEADER] == ProtocolError.code
    assert msgpack.unpackb(answer.data)["code"] == ProtocolError.code


async def test_a_request_without_a_reply_subject_is_handled_all_the_same(bus: Bus, client: Bus) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handler(ask: Ask) -> Answer:
        seen.put_nowait(ask.text)
        return Answer(text="")

    subject = await served(bus, handler)
    await client.send(subject, Ask(text="one way"))
    await client.publish(subject, b"garbage")
    await client.send(subject, Ask(text="still served"))
    assert [await seen.get(), await seen.get()] == ["one way", "still served"]


async def test_an_answer_of_garbage_is_a_protocol_error(bus: Bus, client: Bus, tasks: Tasks) -> None:
    subject = bus.inbox()
    await bus.listen_raw(subject, lambda msg: tasks.start(bus.publish(msg.reply, b"garbage"), name="answer") and None)
    await bus.flush()
    with pytest.raises(ProtocolError):
        await client.request(subject, Ask(text=""), Answer, 5)


async def test_a_message_over_the_limit_is_refused_at_the_source(bus: Bus) -> None:
    with pytest.raises(PayloadTooLarge):
        await bus.publish("large", bytes(bus.max_payload + 1))
    with pytest.raises(PayloadTooLarge):
        await bus.request("large", Ask(text="x" * bus.max_payload), Answer, 5)
    await bus.flush()
    assert bus.connected


async def test_headers_count_towards_the_limit(bus: Bus, client: Bus) -> None:
    """The server ends a connection that sends more, for good."""
    subject = client.inbox()
    arrived: asyncio.Queue[int] = asyncio.Queue()
    await client.listen(subject, lambda _subject, data: arrived.put_nowait(len(data)))
    await client.flush()
    headers = {"Baton-Event": "finished", "Baton-Note": "ü" * 10}
    largest = bus.max_payload
    while largest:
        try:
            await bus.publish(subject, bytes(largest), headers)
            break
        except PayloadTooLarge:
            largest -= 1
    await bus.flush()
    assert bus.connected
    assert await arrived.get() == largest
    assert bus.max_payload - largest == len(b"NATS/1.0\r\n\r\n") + sum(
        len(f"{key}: {value}\r\n".encode()) for key, value in headers.items()
    )


async def test_listeners_keep_the_order_of_one_sender(bus: Bus, client: Bus) -> None:
    count = 2000
    heard: list[int] = []
    done = asyncio.Event()

    def listener(_subject: str, data: bytes) -> None:
        heard.append(int(data))
        if len(heard) == count:
            done.set()

    subject = bus.inbox()
    await bus.listen(subject, listener)
    await bus.flush()
    for number in range(count):
        await client.publish(subject, str(number).encode())
    await done.wait()
    assert heard == list(range(count))


async def test_a_listener_that_raises_goes_on_listening(bus: Bus, client: Bus) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def listener(_subject: str, data: bytes) -> None:
        if data == b"bad":
            raise KeyError("a defect")
        heard.put_nowait(data)

    subject = bus.inbox()
    await bus.listen(subject, listener)
    await bus.flush()
    await client.publish(subject, b"bad")
    await client.publish(subject, b"good")
    assert await heard.get() == b"good"


async def test_a_queue_group_gives_each_request_to_one(connect: Connect, client: Bus) -> None:
    answered: list[str] = []

    async def handler(ask: Ask) -> Answer:
        answered.append(ask.text)
        return Answer(text=ask.text)

    subject = client.inbox()
    for _ in range(3):
        bus = await connect()
        await bus.serve(subject, Ask, handler, queue="group")
        await bus.flush()
    for number in range(20):
        await client.request(subject, Ask(text=str(number)), Answer, 5)
    assert answered == [str(number) for number in range(20)]


async def test_when_flush_returns_the_server_knows_the_subscription(bus: Bus, client: Bus) -> None:
    for _ in range(50):
        subject = bus.inbox()
        await bus.serve(subject, Ask, echo)
        await bus.flush()
        await client.request(subject, Ask(text=""), Answer, 5)


async def test_a_drained_subscription_hands_over_what_has_arrived(bus: Bus, client: Bus) -> None:
    heard: list[bytes] = []
    subject = bus.inbox()
    listening = await bus.listen(subject, lambda _subject, data: heard.append(data))
    await bus.flush()
    for number in range(100):
        await client.publish(subject, str(number).encode())
    await client.flush()
    await listening.drain()
    assert len(heard) == 100
    with pytest.raises(Unavailable):
        await client.request(subject, Ask(text=""), Answer, 5)


async def test_no_request_is_lost_while_its_server_drains(bus: Bus, client: Bus) -> None:
    async def ask_until_nobody_is_there(subject: str) -> None:
        while True:
            await client.request(subject, Ask(text=""), Answer, 5)

    for _ in range(30):
        subject = bus.inbox()
        listening = await bus.serve(subject, Ask, echo)
        await bus.flush()
        asking = asyncio.gather(*(ask_until_nobody_is_there(subject) for _ in range(4)), return_exceptions=True)
        await listening.drain()
        assert [type(error) for error in await asking] == [Unreached] * 4


async def test_closing_a_subscription_twice_or_after_the_bus_does_no_harm(bus: Bus) -> None:
    first = await bus.listen(bus.inbox(), lambda _subject, _data: None)
    second = await bus.listen(bus.inbox(), lambda _subject, _data: None)
    await first.close()
    await first.close()
    await first.drain()
    await bus.close()
    await second.close()
    await second.drain()


async def test_close_is_idempotent_and_sends_what_is_pending(bus: Bus, client: Bus) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    subject = client.inbox()
    await client.listen(subject, lambda _subject, data: heard.put_nowait(data))
    await client.flush()
    await bus.publish(subject, b"last words")
    await bus.close()
    await bus.close()
    assert await heard.get() == b"last words"
    assert not bus.connected


async def test_a_closed_bus_is_unavailable(bus: Bus) -> None:
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.publish("subject", b"")
    with pytest.raises(Unavailable):
        await bus.request("subject", Ask(text=""), Answer, 5)
    with pytest.raises(Unavailable):
        await bus.listen("subject", lambda _subject, _data: None)
    with pytest.raises(Unavailable):
        await bus.flush()


async def test_a_subject_that_is_none_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable):
        await bus.publish("two words", b"")
    with pytest.raises(Unavailable):
        await bus.publish("line\r\nPUB other 0", b"")
    with pytest.raises(Unavailable):
        await bus.listen("a..b", lambda _subject, _data: None)


async def test_an_answer_after_the_bus_is_closed_ends_no_process(bus: Bus, client: Bus) -> None:
    """The `tasks` fixture fails the test if the answering task fails."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def handler(_ask: Ask) -> Answer:
        asked.set()
        await release.wait()
        return Answer(text="too late")

    subject = await served(bus, handler)
    await client.publish(subject, encode(Ask(text="")), reply=client.inbox())
    await asked.wait()
    await bus.close()
    release.set()


async def test_a_request_after_the_tasks_are_closed_is_left_unanswered(nats_url: str, client: Bus) -> None:
    tasks = Tasks("stopping")
    bus = await Bus.connect(BusSettings(url=nats_url), name="stopping", spawn=tasks.start)
    subject = await served(bus, echo)
    await tasks.close()
    with pytest.raises(DeadlineExceeded):
        await client.request(subject, Ask(text=""), Answer, 0.1)
    assert bus.connected
    await bus.close()


async def test_a_cancelled_request_leaves_nothing_behind(bus: Bus, client: Bus, tasks: Tasks) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handler(_ask: Ask) -> Answer:
        asked.set()
        await gone.wait()
        return Answer(text="to nobody")

    subject = await served(bus, handler)
    request = tasks.start(_discard(client.request(subject, Ask(text=""), Answer, 10)), name="request")
    await asked.wait()
    request.cancel()
    await asyncio.wait({request})
    gone.set()
    assert request.cancelled()
    assert (await client.request(await served(bus, echo), Ask(text="next"), Answer, 5)).text == "next"


async def _discard(coro: Awaitable[object]) -> None:
    await coro


async def test_an_outbox_publishes_in_order_and_survives_what_it_cannot_send(
    bus: Bus, client: Bus, tasks: Tasks
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    subject = client.inbox()
    await client.listen(subject, lambda _subject, data: heard.put_nowait(decode(Ask, data).text))
    await client.flush()
    outbox = Outbox(bus)
    outbox.post(subject, Ask(text="first"))
    outbox.post("not a subject", Ask(text="lost"))
    outbox.post(subject, Ask(text="x" * bus.max_payload))
    outbox.post(subject, Ask(text="second"))
    tasks.start(outbox.run(), name="outbox")
    await outbox.drain()
    assert [await heard.get(), await heard.get()] == ["first", "second"]
