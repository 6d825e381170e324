"""One question to its answer, over a real socket to a scripted gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scripted_gateway import Client, Message, ScriptedGateway, greet

from services.chat.answerer import Answerer
from services.chat.connection import ConnectionLost, GatewayConnection
from services.chat.conversation import Conversation
from services.chat.settings import ChatSettings, stream_url
from shared.errors import Overloaded, Unavailable


class Chat:
    """An answerer, its conversation, and what it showed."""

    def __init__(self, url: str, **settings: object) -> None:
        self.talk = Conversation()
        self.shown: list[str] = []
        self.said = asyncio.Event()
        self.notices: list[str] = []
        self.connection = GatewayConnection(stream_url(url))
        chosen = ChatSettings(url=url, **settings)  # type: ignore[arg-type]
        self.answerer = Answerer(self.connection, self.talk, chosen, self._show, self.notices.append)

    def _show(self, text: str) -> None:
        self.shown.append(text)
        self.said.set()


@pytest.fixture
async def chat(gateway: ScriptedGateway) -> AsyncIterator[Chat]:
    made = Chat(gateway.url, model="tiny", max_tokens=9, temperature=0.0)
    yield made
    await made.connection.close()


def contents(message: Message) -> list[str]:
    return [turn["content"] for turn in message["messages"]]


async def test_the_answer_streams_and_joins_the_conversation(chat: Chat, gateway: ScriptedGateway) -> None:
    await chat.answerer.ask("hi")
    assert chat.shown == ["Hello ", "you"]
    await chat.answerer.ask("more")
    assert contents(gateway.asked[1]) == ["hi", "Hello you", "more"]
    first = gateway.asked[0]
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("tiny", 9, 0.0)
    assert gateway.connections == 1


async def test_an_error_is_raised_and_the_question_forgotten(chat: Chat, gateway: ScriptedGateway) -> None:
    async def refuse(client: Client, message: Message) -> None:
        await client.send("error", message["id"], code="overloaded", message="full", retry_after_ms=2000)

    gateway.script = refuse
    with pytest.raises(Overloaded) as caught:
        await chat.answerer.ask("hi")
    assert caught.value.retry_after_ms == 2000
    assert chat.talk.messages == []


async def test_a_lost_connection_is_made_again(chat: Chat, gateway: ScriptedGateway) -> None:
    await chat.answerer.ask("hi")

    async def hang_up_once(client: Client, _message: Message) -> None:
        gateway.script = greet
        await client.hang_up()

    gateway.script = hang_up_once
    await chat.answerer.ask("again")
    assert gateway.connections == 2
    assert chat.talk.messages[-1]["content"] == "Hello you"


async def test_what_was_said_before_the_connection_broke_stays(chat: Chat, gateway: ScriptedGateway) -> None:
    async def break_off(client: Client, message: Message) -> None:
        await client.say(message["id"], "Hel")
        await client.hang_up()

    gateway.script = break_off
    with pytest.raises(ConnectionLost):
        await chat.answerer.ask("hi")
    assert chat.talk.messages[-1] == {"role": "assistant", "content": "Hel"}


async def test_the_rest_of_an_answer_is_had_from_whoever_answers_next(chat: Chat, gateway: ScriptedGateway) -> None:
    async def go_on(client: Client, message: Message) -> None:
        assert (message["type"], message["session"], message["after"]) == ("resume", "s", 3)
        await client.send("started", message["id"], session="s", model="tiny", prompt_tokens=1)
        await client.send("delta", message["id"], index=3, text="lo", token_ids=[1])
        await client.finish(message["id"])

    async def break_off(client: Client, message: Message) -> None:
        gateway.script = go_on
        await client.send("started", message["id"], session="s", model="tiny", prompt_tokens=1)
        await client.send("delta", message["id"], index=0, text="Hel", token_ids=[1, 2, 3])
        await client.hang_up()

    gateway.script = break_off
    await chat.answerer.ask("hi")
    assert chat.shown == ["Hel", "lo"]
    assert chat.talk.messages[-1]["content"] == "Hello"


async def test_a_gateway_that_stops_sends_it_to_another(chat: Chat, gateway: ScriptedGateway) -> None:
    async def go_on(client: Client, message: Message) -> None:
        assert (message["type"], message["after"]) == ("resume", 3)
        await client.send("delta", message["id"], index=3, text="lo", token_ids=[1])
        await client.finish(message["id"])

    async def let_go(client: Client, message: Message) -> None:
        gateway.script = go_on
        await client.send("started", message["id"], session="s", model="tiny", prompt_tokens=1)
        await client.send("delta", message["id"], index=0, text="Hel", token_ids=[1, 2, 3])
        await client.send("error", message["id"], code="draining", message="bye", retry_after_ms=1000)

    gateway.script = let_go
    await chat.answerer.ask("hi")
    assert chat.shown == ["Hel", "lo"]


async def test_without_a_journal_it_asks_as_before(chat: Chat, gateway: ScriptedGateway) -> None:
    async def no_journal(client: Client, message: Message) -> None:
        if "resumable" in message:
            await client.send("error", message["id"], code="resume_unavailable", message="no", param="resumable")
        else:
            await greet(client, message)

    gateway.script = no_journal
    await chat.answerer.ask("hi")
    await chat.answerer.ask("more")
    assert "".join(chat.shown) == "Hello you" * 2
    assert ["resumable" in message for message in gateway.asked] == [True, False, False]


async def test_the_oldest_turns_are_left_out_when_the_context_is_full(chat: Chat, gateway: ScriptedGateway) -> None:
    await chat.answerer.ask("one")

    async def context_of_one_turn(client: Client, message: Message) -> None:
        if len(message["messages"]) > 1:
            await client.send("error", message["id"], code="context_length_exceeded", message="too long")
        else:
            await greet(client, message)

    gateway.script = context_of_one_turn
    await chat.answerer.ask("two")
    assert contents(gateway.asked[-1]) == ["two"]
    assert len(chat.notices) == 1


async def test_interrupting_cancels_at_the_gateway_and_keeps_what_was_said(
    chat: Chat, gateway: ScriptedGateway
) -> None:
    async def slow(client: Client, message: Message) -> None:
        if message["type"] == "cancel":
            await client.finish(message["id"], "cancelled")
        else:
            await client.say(message["id"], "Hel")

    gateway.script = slow
    asking = asyncio.ensure_future(chat.answerer.ask("hi"))
    await chat.said.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert gateway.received[-1] == {"type": "cancel", "id": gateway.asked[0]["id"]}
    assert chat.talk.messages[-1]["content"] == "Hel"
    assert not chat.answerer.stopping


async def test_events_it_does_not_know_are_skipped(chat: Chat, gateway: ScriptedGateway) -> None:
    async def newer(client: Client, message: Message) -> None:
        await client.send("novelty", message["id"], depth=3)
        await greet(client, message)

    gateway.script = newer
    await chat.answerer.ask("hi")
    assert "".join(chat.shown) == "Hello you"


async def test_no_gateway_is_unavailable(unused_tcp_port: int) -> None:
    with pytest.raises(Unavailable):
        await GatewayConnection(stream_url(f"http://127.0.0.1:{unused_tcp_port}")).open()
