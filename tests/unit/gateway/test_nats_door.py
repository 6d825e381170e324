"""The NATS door through a real nats-server, asked with plain nats-py and plain msgpack."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from scripted_generator import ScriptedGenerator, delta, fails, says

from services.gateway.generation import Delta, GenerationRequest
from services.gateway.nats_door.door import NatsDoor
from services.gateway.nats_door.settings import NatsDoorSettings
from services.gateway.requests import RequestBuilder
from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.core import FinishReason
from shared.errors import KvExhausted
from shared.runtime.tasks import Tasks

SUBJECT = "baton.v1.generate"


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with Tasks("test") as tasks:
        bus = await Bus.connect(BusSettings(url=nats_url), name="gateway", spawn=tasks.start)
        yield bus
        await bus.close()


@pytest.fixture
async def nats_door(bus: Bus, generator: ScriptedGenerator, builder: RequestBuilder) -> AsyncIterator[NatsDoor]:
    door = NatsDoor(bus, generator, builder, NatsDoorSettings(request_limit=4, probe_interval_s=0.05))
    await door.start()
    await bus.flush()
    yield door
    await door.close()
    assert generator.live == 0
    assert len(door) == 0


@pytest.fixture
async def client(nats_url: str, nats_door: NatsDoor) -> AsyncIterator[Client]:
    connection = await nats.connect(nats_url)
    yield connection
    await connection.close()


class Inbox:
    """One request's own inbox; skips `waiting` events, as clients do."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._messages: asyncio.Queue[Msg] = asyncio.Queue()

    async def ask(self, fields: dict[str, Any]) -> None:
        await self.ask_raw(msgpack.packb({"v": 1} | fields))

    async def ask_raw(self, data: bytes) -> None:
        subject = self._client.new_inbox()
        self.subscription = await self._client.subscribe(subject, cb=self._messages.put)
        await self._client.publish(SUBJECT, data, reply=subject)

    async def next(self) -> tuple[Msg, dict[str, Any]]:
        while True:
            message = await asyncio.wait_for(self._messages.get(), 10)
            if message.headers["Baton-Event"] != "waiting":
                return message, msgpack.unpackb(message.data)

    async def until(self, kind: str) -> list[dict[str, Any]]:
        bodies = []
        while not bodies or bodies[-1]["type"] != kind:
            message, body = await self.next()
            assert message.headers["Baton-Event"] == body["type"]
            bodies.append(body)
        return bodies


@pytest.fixture
def inbox(client: Client) -> Inbox:
    return Inbox(client)


async def forever(request: GenerationRequest) -> AsyncIterator[Delta]:
    yield delta("x")
    await asyncio.Event().wait()


async def test_events_stream_to_the_inbox_until_the_last(inbox: Inbox) -> None:
    await inbox.ask({"prompt": "hi"})
    events = await inbox.until("finished")
    assert events[0] | {"cancel_subject": ""} == {
        "type": "started",
        "v": 1,
        "n": 0,
        "session": "0" * 32,
        "model": "tiny",
        "prompt_tokens": 3,
        "cancel_subject": "",
    }
    deltas = [event for event in events if event["type"] == "delta"]
    assert "".join(event["text"] for event in deltas) == "Hello world"
    assert [event["index"] for event in deltas] == [0, 5]
    assert {event["session"] for event in events} == {"0" * 32}
    assert events[-1]["finish_reason"] == "stop"
    assert events[-1]["usage"]["completion_tokens"] == 11


async def test_a_chat(inbox: Inbox, generator: ScriptedGenerator) -> None:
    await inbox.ask({"messages": [{"role": "user", "content": "hi"}]})
    await inbox.until("finished")
    assert bytes(generator.requests[0].prompt_ids) == b"user:hi\nassistant:"


async def test_a_plain_request_gets_one_message(client: Client) -> None:
    answer = await client.request(SUBJECT, msgpack.packb({"v": 1, "prompt": "hi", "stream": False}), timeout=10)
    body = msgpack.unpackb(answer.data)
    assert (body["type"], body["text"], len(body["token_ids"])) == ("finished", "Hello world", 11)


async def test_a_plain_request_that_takes_long_sees_no_probes(client: Client, generator: ScriptedGenerator) -> None:
    probed = asyncio.Event()
    count = 0

    async def watch(_message: Msg) -> None:
        nonlocal count
        count += 1
        if count == 3:
            probed.set()

    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        await probed.wait()
        yield delta("late", FinishReason.STOP)

    generator.script = script
    await client.subscribe("_INBOX.*.*", cb=watch)
    answer = await client.request(SUBJECT, msgpack.packb({"v": 1, "prompt": "hi", "stream": False}), timeout=10)
    assert msgpack.unpackb(answer.data)["text"] == "late"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc1garbage", "protocol"),
        (msgpack.packb({"v": 7, "prompt": "hi"}), "protocol"),
        (msgpack.packb({"v": 1}), "invalid_request"),
        (msgpack.packb({"v": 1, "prompt": "hi", "n": 2}), "invalid_request"),
        (msgpack.packb({"v": 1, "prompt": b"hi"}), "invalid_request"),
        (msgpack.packb({"v": 1, "prompt": "hi", "model": "other"}), "model_not_found"),
        (msgpack.packb({"v": 1, "prompt": "hi", "max_tokens": 999}), "context_length_exceeded"),
        (msgpack.packb({"v": 1, "prompt": "hi", "no_such_parameter": 1}), "invalid_request"),
    ],
)
async def test_bad_requests_get_a_typed_error(
    inbox: Inbox, generator: ScriptedGenerator, data: bytes, code: str
) -> None:
    await inbox.ask_raw(data)
    message, body = await inbox.next()
    assert message.headers["Baton-Event"] == "error"
    assert message.headers["Baton-Error"] == body["code"] == code
    assert body["message"]
    assert generator.requests == []


async def test_a_failure_is_the_last_message(inbox: Inbox, generator: ScriptedGenerator) -> None:
    generator.script = fails(KvExhausted("full", retry_after_ms=70), "some")
    await inbox.ask({"prompt": "hi"})
    failed = (await inbox.until("error"))[-1]
    assert (failed["code"], failed["retry_after_ms"], failed["n"]) == ("kv_exhausted", 70, 2)


async def test_requests_without_an_inbox_are_dropped(
    client: Client, inbox: Inbox, generator: ScriptedGenerator
) -> None:
    await client.publish(SUBJECT, msgpack.packb({"v": 1, "prompt": "no reply"}))
    await client.publish(SUBJECT, msgpack.packb({"v": 1, "prompt": "not an inbox"}), reply="baton.v1.beat.decode.d0")
    await inbox.ask({"prompt": "hi"})
    await inbox.until("finished")
    assert len(generator.requests) == 1


async def test_the_named_subject_cancels(client: Client, inbox: Inbox, generator: ScriptedGenerator) -> None:
    generator.script = forever
    await inbox.ask({"prompt": "hi"})
    started = (await inbox.until("delta"))[0]
    await client.publish(started["cancel_subject"], b"")
    finished = (await inbox.until("finished"))[-1]
    assert finished["finish_reason"] == "cancelled"
    assert finished["usage"]["completion_tokens"] == 1
    assert (generator.cancelled, generator.unwanted) == (1, 1)


async def test_a_requester_that_is_gone_may_resume(inbox: Inbox, generator: ScriptedGenerator) -> None:
    generator.script = forever
    await inbox.ask({"prompt": "hi", "resumable": True})
    session = (await inbox.until("delta"))[0]["session"]
    await inbox.subscription.unsubscribe()
    await asyncio.wait_for(generator.idle.wait(), 10)
    assert (generator.cancelled, generator.unwanted) == (1, 0)
    generator.script = says("Hello", " world")
    await inbox.ask({"resume": session, "after": 1})
    assert (await inbox.until("finished"))[0]["session"] == session
    assert generator.resumed == [(session, 1)]


async def test_a_requester_that_unsubscribes_is_gone(inbox: Inbox, generator: ScriptedGenerator) -> None:
    generator.script = forever
    await inbox.ask({"prompt": "hi"})
    await inbox.until("delta")
    await inbox.subscription.unsubscribe()
    await asyncio.wait_for(generator.idle.wait(), 10)


async def test_a_requester_that_disconnects_is_gone_even_while_nothing_is_said(
    client: Client, inbox: Inbox, generator: ScriptedGenerator
) -> None:
    async def silent(request: GenerationRequest) -> AsyncIterator[Delta]:
        await asyncio.Event().wait()
        yield delta("never")

    generator.script = silent
    await inbox.ask({"prompt": "hi"})
    await inbox.until("started")
    await client.close()
    await asyncio.wait_for(generator.idle.wait(), 10)


async def test_a_plain_requester_that_disconnects_is_gone_too(
    nats_url: str, bus: Bus, nats_door: NatsDoor, generator: ScriptedGenerator
) -> None:
    generator.script = forever
    client = await nats.connect(nats_url)
    asking = asyncio.ensure_future(
        client.request(SUBJECT, msgpack.packb({"v": 1, "prompt": "hi", "stream": False}), timeout=30)
    )
    await generator.started.wait()
    await bus.flush()
    asking.cancel()
    await client.close()
    await asyncio.wait_for(generator.idle.wait(), 10)


async def test_an_own_inbox_for_one_message_is_answered_late_too(inbox: Inbox, generator: ScriptedGenerator) -> None:
    """Nobody hears a probe beside it: that says nothing about the requester."""
    go = asyncio.Event()

    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        await go.wait()
        yield delta("late", FinishReason.STOP)

    generator.script = script
    await inbox.ask({"prompt": "hi", "stream": False})
    await generator.started.wait()
    await asyncio.sleep(0.2)  # four probe intervals: nothing to wait for, since nothing may happen
    go.set()
    _, body = await inbox.next()
    assert (body["type"], body["text"]) == ("finished", "late")


async def test_more_than_the_limit_are_refused(
    client: Client, inbox: Inbox, nats_door: NatsDoor, generator: ScriptedGenerator
) -> None:
    generator.script = forever
    inboxes = [Inbox(client) for _ in range(4)]
    for each in inboxes:
        await each.ask({"prompt": "hi"})
        await each.until("started")
    await inbox.ask({"prompt": "hi"})
    message, _ = await inbox.next()
    assert message.headers["Baton-Error"] == "overloaded"


async def test_the_client_may_shorten_the_deadline(inbox: Inbox, generator: ScriptedGenerator) -> None:
    await inbox.ask({"prompt": "hi", "deadline_ms": 1500})
    await inbox.until("finished")
    assert generator.requests[0].deadline_s == 1.5


async def test_an_answer_that_is_too_large_for_nats_is_a_typed_error(
    inbox: Inbox, bus: Bus, generator: ScriptedGenerator
) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        yield Delta(text="x" * bus.max_payload, tokens=(), finish=FinishReason.STOP)

    generator.script = script
    await inbox.ask({"prompt": "hi", "stream": False})
    message, _ = await inbox.next()
    assert message.headers["Baton-Error"] == "payload_too_large"


async def test_two_gateways_share_the_requests(
    bus: Bus, client: Client, nats_door: NatsDoor, generator: ScriptedGenerator, builder: RequestBuilder
) -> None:
    other = NatsDoor(bus, generator, builder)
    await other.start()
    await bus.flush()
    for _ in range(20):
        await client.request(SUBJECT, msgpack.packb({"v": 1, "prompt": "hi", "stream": False}), timeout=10)
    assert len(generator.requests) == 20
    await other.close()


async def test_drain_answers_what_it_has_and_takes_nothing_more(
    client: Client, inbox: Inbox, nats_door: NatsDoor, generator: ScriptedGenerator
) -> None:
    go = asyncio.Event()

    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        yield delta("x")
        await go.wait()
        yield delta("y", FinishReason.STOP)

    generator.script = script
    await inbox.ask({"prompt": "hi"})
    await inbox.until("delta")
    draining = asyncio.ensure_future(nats_door.drain())
    await until_nobody_takes_requests(client)
    go.set()
    await inbox.until("finished")
    await draining


async def until_nobody_takes_requests(client: Client) -> None:
    with contextlib.suppress(nats.errors.NoRespondersError):
        while True:
            await client.request(SUBJECT, msgpack.packb({"v": 1}), timeout=10)
