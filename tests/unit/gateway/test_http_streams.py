"""Streams on the wire: framing, keep-alives, disconnects, slow readers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from http_door import Door
from scripted_generator import ScriptedGenerator, delta, fails, says

from services.gateway.generation import Delta, GenerationRequest
from services.gateway.http import HttpSettings
from shared.core import FinishReason
from shared.errors import Draining, WorkerFailed

COMPLETION = {"model": "tiny", "prompt": "hi"}
STREAM = COMPLETION | {"stream": True}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def events_of(response: aiohttp.ClientResponse) -> list[str]:
    """The whole body, split into events."""
    text = await response.text()
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


async def test_framing(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", json=STREAM) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        events = await events_of(response)
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    first = json.loads(events[0].removeprefix("data: "))
    assert set(first) == {"id", "object", "created", "model", "system_fingerprint", "choices"}
    assert first["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": None}]


async def test_usage_comes_last_and_without_choices(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", json=STREAM | {"stream_options": {"include_usage": True}}) as response:
        events = [json.loads(event.removeprefix("data: ")) for event in (await events_of(response))[:-1]]
    assert [event["usage"] for event in events[:-1]] == [None, None]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 11, "total_tokens": 14}
    assert events[-1]["baton"]["handoff_ms"] == 3.0


async def test_held_back_text_makes_no_chunk_and_keeps_the_role(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        yield delta("", tokens=delta("x").tokens)
        yield delta("xy", tokens=delta("y").tokens)
        yield delta("", FinishReason.STOP, stop_match="##", tokens=delta("#").tokens)

    generator.script = script
    async with http.post("/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        choices = [json.loads(event[6:])["choices"][0] for event in (await events_of(response))[:-1]]
    assert [choice["delta"] for choice in choices] == [{"content": "xy", "role": "assistant"}, {"content": ""}]
    assert choices[-1]["finish_reason"] == "stop"
    assert choices[-1]["stop_reason"] == "##"


async def test_an_error_event_ends_the_stream_without_done(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
) -> None:
    generator.script = fails(WorkerFailed("lost"), "some")
    async with http.post("/v1/completions", json=STREAM) as response:
        assert response.status == 200
        events = await events_of(response)
    assert "some" in events[0]
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "worker_failed"
    assert len(events) == 2


async def test_an_error_event_says_when_to_try_again(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    generator.script = fails(Draining("going", retry_after_ms=1500), "a")
    async with http.post("/v1/completions", json=STREAM) as response:
        events = await events_of(response)
    assert json.loads(events[1].removeprefix("data: "))["error"]["retry_after_ms"] == 1500


async def test_a_generation_without_an_end_is_an_error(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        yield delta("some")

    generator.script = script
    async with http.post("/v1/completions", json=COMPLETION) as response:
        assert response.status == 500


class Gate:
    """A script that waits: at the start if `late`, else after its first delta."""

    def __init__(self, *, late: bool, then: BaseException | None = None) -> None:
        self.open = asyncio.Event()
        self._late = late
        self._then = then

    async def __call__(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        if not self._late:
            yield delta("first")
        await self.open.wait()
        if self._then is not None:
            raise self._then
        yield delta("last", FinishReason.STOP)


class TestKeepAlive:
    @pytest.fixture
    def http_settings(self) -> HttpSettings:
        return HttpSettings(version="1", system_fingerprint="fp", keep_alive_s=0.01)

    async def test_a_late_first_token_is_waited_for_with_comments(
        self, http: aiohttp.ClientSession, generator: ScriptedGenerator
    ) -> None:
        generator.script = gate = Gate(late=True)
        async with http.post("/v1/completions", json=STREAM) as response:
            assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            gate.open.set()
            assert (await response.text()).endswith("data: [DONE]\n\n")

    async def test_an_error_after_a_comment_is_an_event(
        self, http: aiohttp.ClientSession, generator: ScriptedGenerator
    ) -> None:
        generator.script = gate = Gate(late=True, then=WorkerFailed("lost"))
        async with http.post("/v1/completions", json=STREAM) as response:
            await response.content.readuntil(b"\n\n")
            gate.open.set()
            text = await response.text()
        assert "worker_failed" in text
        assert "[DONE]" not in text

    async def test_a_stall_between_tokens_too(self, http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
        generator.script = gate = Gate(late=False)
        async with http.post("/v1/completions", json=STREAM) as response:
            assert b"first" in await response.content.readuntil(b"\n\n")
            assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
            gate.open.set()
            assert "last" in await response.text()


@pytest.mark.parametrize("body", [COMPLETION, STREAM, COMPLETION | {"n": 3}, STREAM | {"prompt": ["a", "b"]}])
async def test_a_client_that_leaves_before_the_first_token_cancels(
    http: aiohttp.ClientSession, generator: ScriptedGenerator, body: dict[str, object]
) -> None:
    generator.script = Gate(late=True)
    sending = asyncio.ensure_future(http.post("/v1/completions", json=body))
    async with asyncio.timeout(5):
        await generator.started.wait()
    sending.cancel()
    async with asyncio.timeout(5):
        await generator.idle.wait()
    assert generator.cancelled == len(generator.requests)


async def test_a_client_that_leaves_a_stream_cancels(door: Door, generator: ScriptedGenerator) -> None:
    generator.script = Gate(late=False)
    async with aiohttp.ClientSession(door.base_url) as http:
        response = await http.post("/v1/chat/completions", json=CHAT | {"stream": True, "n": 2})
        await response.content.readuntil(b"\n\n")
        response.close()
    async with asyncio.timeout(5):
        await generator.idle.wait()
    assert generator.cancelled == 2


async def test_a_failing_choice_cancels_the_others(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    gate = Gate(late=True)

    def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        return gate(request) if request.sampling.seed == 0 else fails(WorkerFailed("lost"))(request)

    generator.script = script
    async with http.post("/v1/completions", json=COMPLETION | {"n": 2, "seed": 0}) as response:
        assert response.status == 502
    assert (generator.live, generator.cancelled) == (0, 1)


class TestSlowReader:
    LIMIT_BYTES = 64 << 20

    @pytest.fixture
    def http_settings(self) -> HttpSettings:
        return HttpSettings(version="1", system_fingerprint="fp", write_timeout_s=0.3)

    async def test_one_who_does_not_read_stops_the_generation_and_is_cut_off(
        self, door: Door, generator: ScriptedGenerator
    ) -> None:
        produced = 0

        async def script(request: GenerationRequest) -> AsyncIterator[Delta]:
            nonlocal produced
            while produced < self.LIMIT_BYTES:
                produced += 32768
                yield Delta(text="x" * 32768, tokens=())
            yield delta("end", FinishReason.STOP)

        generator.script = script
        body = json.dumps(STREAM).encode()
        with socket.create_connection((door.host, door.port)) as connection:
            connection.setblocking(False)
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            head += "Content-Type: application/json\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(connection, head.encode() + body)
            async with asyncio.timeout(20):
                await generator.started.wait()
                await generator.idle.wait()
        assert produced < self.LIMIT_BYTES
        assert generator.cancelled == 1


async def test_a_whole_answer_of_many_deltas(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    generator.script = says(*"abcdefghijklmnopqrstuvwxyz")
    async with http.post("/v1/chat/completions", json=CHAT) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == "abcdefghijklmnopqrstuvwxyz"
    assert answer["usage"]["completion_tokens"] == 26
