"""The generations of one socket, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from scripted_generator import SESSION, ScriptedGenerator, delta, fails

from services.gateway.generation import Delta as GeneratedDelta
from services.gateway.generation import GenerationRequest
from services.gateway.requests import RequestBuilder
from services.gateway.websocket.multiplexer import Multiplexer
from services.gateway.websocket.outbox import Outbox
from shared.core import FinishReason
from shared.errors import Draining, InvalidRequest, KvExhausted, Overloaded
from shared.protocol.from_client import Cancel, Generate, Ping, Resume
from shared.protocol.to_client import Delta, Event, Failed, Finished, Pong, Started
from shared.runtime.tasks import Tasks


@pytest.fixture
def box() -> Outbox:
    return Outbox(pending_limit_bytes=1000, notice_limit=4)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks("test") as tasks:
        yield tasks


@pytest.fixture
def socket(generator: ScriptedGenerator, builder: RequestBuilder, box: Outbox, tasks: Tasks) -> Multiplexer:
    return Multiplexer(generator, builder, box, tasks, generation_limit=3, request_id="r")


def ask(name: str, **params: object) -> Generate:
    return Generate(name, {"prompt": "hi"} | params)


async def until_end(box: Outbox, name: str) -> list[Event]:
    """The events of `name` to its last."""
    events = []
    while True:
        event = await box.next()
        if event.id == name:
            events.append(event)
            if isinstance(event, Finished | Failed):
                return events


async def rest_of_hello(request: GenerationRequest) -> AsyncIterator[GeneratedDelta]:
    """What a client that has "Hel" must get."""
    yield delta("Hel", known=True)
    yield delta("lo")
    yield delta(" world", FinishReason.STOP)


async def forever(request: GenerationRequest) -> AsyncIterator[GeneratedDelta]:
    yield delta("x")
    await asyncio.Event().wait()


async def test_a_generation_starts_says_and_finishes(box: Outbox, socket: Multiplexer) -> None:
    socket.receive(ask("a"))
    events = await until_end(box, "a")
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (started.session, started.model, started.prompt_tokens) == ("0" * 32, "tiny", 3)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Hello world"
    assert finished.finish_reason is FinishReason.STOP
    assert finished.usage.total_tokens == 3 + 11
    assert finished.timings.handoff_ms == 3.0  # type: ignore[union-attr]


async def test_a_chat_is_one_that_has_messages(box: Outbox, socket: Multiplexer, generator: ScriptedGenerator) -> None:
    socket.receive(Generate("a", {"messages": [{"role": "user", "content": "hi"}]}))
    await until_end(box, "a")
    assert bytes(generator.requests[0].prompt_ids) == b"user:hi\nassistant:"


async def test_logprobs_come_when_asked_for(box: Outbox, socket: Multiplexer) -> None:
    socket.receive(ask("a", logprobs=1))
    events = await until_end(box, "a")
    delta_event = events[1]
    assert isinstance(delta_event, Delta)
    assert len(delta_event.logprobs) == len(delta_event.token_ids)  # type: ignore[arg-type]


async def test_many_at_once(box: Outbox, socket: Multiplexer, generator: ScriptedGenerator) -> None:
    for name in "abc":
        socket.receive(ask(name))
    ended = set()
    while len(ended) < 3:
        event = await box.next()
        if isinstance(event, Finished):
            ended.add(event.id)
    assert ended == {"a", "b", "c"}
    assert generator.live == 0


async def test_cancel_ends_it_with_what_it_had(box: Outbox, socket: Multiplexer, generator: ScriptedGenerator) -> None:
    generator.script = forever
    socket.receive(ask("a"))
    while not isinstance(await box.next(), Delta):
        pass
    socket.receive(Cancel("a"))
    finished = (await until_end(box, "a"))[-1]
    assert isinstance(finished, Finished)
    assert finished.finish_reason is FinishReason.CANCELLED
    assert finished.usage.completion_tokens == 1
    assert (generator.live, generator.cancelled, generator.unwanted) == (0, 1, 1)


async def test_a_socket_that_ends_does_not_cancel_what_can_be_resumed(
    box: Outbox, socket: Multiplexer, tasks: Tasks, generator: ScriptedGenerator
) -> None:
    generator.script = forever
    socket.receive(ask("a", resumable=True))
    while not isinstance(await box.next(), Delta):
        pass
    await tasks.close()
    assert (generator.live, generator.cancelled, generator.unwanted) == (0, 1, 0)


async def test_resume_says_what_is_new(box: Outbox, socket: Multiplexer, generator: ScriptedGenerator) -> None:
    socket.receive(ask("a"))
    await until_end(box, "a")
    generator.script = rest_of_hello
    socket.receive(Resume("b", SESSION, 3))
    started, *deltas, finished = await until_end(box, "b")
    assert generator.resumed == [(SESSION, 3)]
    assert isinstance(started, Started)
    assert [(event.index, event.text) for event in deltas if isinstance(event, Delta)] == [(3, "lo world")]
    assert isinstance(finished, Finished)
    assert finished.usage.completion_tokens == 11


async def test_resume_of_nothing_is_a_typed_error(box: Outbox, socket: Multiplexer) -> None:
    socket.receive(Resume("b", "1" * 32, 3))
    [failed] = await until_end(box, "b")
    assert isinstance(failed, Failed)
    assert failed.code == "session_not_found"


async def test_cancel_before_the_first_step_ends_it_too(
    box: Outbox, socket: Multiplexer, generator: ScriptedGenerator
) -> None:
    socket.receive(ask("a"))
    socket.receive(Cancel("a"))
    finished = (await until_end(box, "a"))[-1]
    assert isinstance(finished, Finished)
    assert finished.finish_reason is FinishReason.CANCELLED
    assert generator.live == 0


async def test_cancel_frees_a_generation_that_waits_for_its_reader(
    builder: RequestBuilder, generator: ScriptedGenerator
) -> None:
    async def chatter(request: GenerationRequest) -> AsyncIterator[GeneratedDelta]:
        while True:
            yield delta("x" * 40)
            await asyncio.sleep(0)

    generator.script = chatter
    box = Outbox(pending_limit_bytes=50, notice_limit=4)
    async with Tasks("test") as tasks:
        socket = Multiplexer(generator, builder, box, tasks, generation_limit=3, request_id="r")
        socket.receive(ask("a"))
        await generator.started.wait()
        socket.receive(Cancel("a"))
        await generator.idle.wait()


async def test_cancel_of_nothing_is_nothing(socket: Multiplexer) -> None:
    socket.receive(Cancel("never"))


async def test_a_failure_is_the_last_event(box: Outbox, socket: Multiplexer, generator: ScriptedGenerator) -> None:
    generator.script = fails(KvExhausted("full", retry_after_ms=70), "some")
    socket.receive(ask("a"))
    failed = (await until_end(box, "a"))[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message, failed.retry_after_ms, failed.n) == ("kv_exhausted", "full", 70, 2)


async def test_a_bug_is_an_internal_error_without_its_text(
    box: Outbox, socket: Multiplexer, generator: ScriptedGenerator
) -> None:
    generator.script = fails(ZeroDivisionError("secret"))
    socket.receive(ask("a"))
    failed = (await until_end(box, "a"))[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message) == ("internal", "internal error")


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"n": 2}, "n"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"temperature": "hot"}, "temperature"),
        ({"prompt": [999_999]}, "prompt"),
        ({"no_such_parameter": 1}, "no_such_parameter"),
        ({"model": "other"}, "model"),
        ({"max_tokens": 10_000}, "prompt"),
    ],
)
async def test_bad_parameters_are_refused_by_name(
    box: Outbox, socket: Multiplexer, generator: ScriptedGenerator, params: dict[str, object], param: str
) -> None:
    socket.receive(ask("a", **params))
    failed = (await until_end(box, "a"))[-1]
    assert isinstance(failed, Failed)
    assert failed.param == param
    assert generator.requests == []


async def test_an_active_id_cannot_be_used_again(socket: Multiplexer, box: Outbox) -> None:
    socket.receive(ask("a"))
    with pytest.raises(InvalidRequest):
        socket.receive(ask("a"))
    await until_end(box, "a")
    socket.receive(ask("a"))
    await until_end(box, "a")


async def test_more_than_the_limit_are_refused(socket: Multiplexer, generator: ScriptedGenerator) -> None:
    generator.script = forever
    for name in "abc":
        socket.receive(ask(name))
    with pytest.raises(Overloaded):
        socket.receive(ask("d"))


async def test_draining_takes_nothing_new(socket: Multiplexer) -> None:
    socket.draining = True
    with pytest.raises(Draining):
        socket.receive(ask("a"))


async def test_ping_is_answered(socket: Multiplexer, box: Outbox) -> None:
    socket.receive(Ping())
    assert isinstance(await box.next(), Pong)


async def test_text_without_tokens_and_tokens_without_text_both_arrive(
    box: Outbox, socket: Multiplexer, generator: ScriptedGenerator
) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[GeneratedDelta]:
        yield delta("", tokens=delta("x").tokens)
        yield delta("x", tokens=(), finish=FinishReason.LENGTH)

    generator.script = script
    socket.receive(ask("a"))
    deltas = [event for event in await until_end(box, "a") if isinstance(event, Delta)]
    assert "".join(event.text for event in deltas) == "x"
    assert sum((event.token_ids for event in deltas), ()) == (120,)


async def test_a_generation_without_a_finish_is_an_error(
    box: Outbox, socket: Multiplexer, generator: ScriptedGenerator
) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[GeneratedDelta]:
        yield delta("x")

    generator.script = script
    socket.receive(ask("a"))
    assert isinstance((await until_end(box, "a"))[-1], Failed)


async def test_stop_match_is_said(box: Outbox, socket: Multiplexer, generator: ScriptedGenerator) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[GeneratedDelta]:
        yield delta("x", FinishReason.STOP, stop_match="END")

    generator.script = script
    socket.receive(ask("a", stop="END"))
    finished = (await until_end(box, "a"))[-1]
    assert isinstance(finished, Finished)
    assert finished.stop_match == "END"
