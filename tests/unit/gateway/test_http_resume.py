"""Resumable streams over HTTP: ids, the session's header, the rest of one, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from scripted_generator import SESSION, Script, ScriptedGenerator, delta, fails, says

from services.gateway.generation import Delta, GenerationRequest
from shared.core import FinishReason
from shared.errors import Overloaded, SessionTaken

CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "resumable": True}
COMPLETION = {"prompt": "hi", "stream": True, "resumable": True}
STREAM = f"/v1/sessions/{SESSION}/stream"


def events_of(text: str) -> list[tuple[str, Any]]:
    """Each event's id and data."""
    events = []
    for event in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        data = fields["data"]
        events.append((fields.get("id", ""), data if data == "[DONE]" else json.loads(data)))
    return events


async def rest_of_hello(_request: GenerationRequest) -> AsyncIterator[Delta]:
    """What a client that has "Hel" must get."""
    yield delta("Hel", known=True)
    yield delta("lo")
    yield delta(" world", FinishReason.STOP)


async def test_each_event_says_how_many_tokens_there_are(http: aiohttp.ClientSession):
    async with http.post("/v1/chat/completions", json=CHAT) as answer:
        assert answer.headers["Baton-Session"] == SESSION
        events = events_of(await answer.text())
    assert [name for name, _ in events] == ["5", "11", "end"]


async def test_ordinary_streams_have_no_ids_and_no_session(http: aiohttp.ClientSession):
    async with http.post("/v1/chat/completions", json={**CHAT, "resumable": False}) as answer:
        assert "Baton-Session" not in answer.headers
        assert {name for name, _ in events_of(await answer.text())} == {""}


@pytest.mark.parametrize(("path", "body"), [("chat/completions", CHAT), ("completions", COMPLETION)])
async def test_the_rest_comes_in_the_chunks_of_the_first_request(
    http: aiohttp.ClientSession, generator: ScriptedGenerator, path: str, body: dict[str, Any]
):
    options = {"stream_options": {"include_usage": True}}
    async with http.post(f"/v1/{path}", json={**body, **options}) as answer:
        [(_, first), *_] = events_of(await answer.text())
    generator.script = rest_of_hello
    async with http.get(STREAM, headers={"Last-Event-ID": "3"}) as answer:
        assert answer.headers["Baton-Session"] == SESSION
        events = events_of(await answer.text())
    assert generator.resumed == [(SESSION, 3)]
    assert [name for name, _ in events] == ["5", "11", "", "end"]
    chunks = [data for _, data in events[:3]]
    assert {(chunk["id"], chunk["object"], chunk["created"]) for chunk in chunks} == {
        (first["id"], first["object"], first["created"])
    }
    assert "role" not in chunks[0]["choices"][0].get("delta", {})
    assert chunks[2]["usage"]["completion_tokens"] == 11


async def test_the_header_a_browser_sends_is_stronger_than_the_address(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
):
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        await answer.read()
    for query, headers in (("", {}), ("?after=4", {}), ("?after=4", {"Last-Event-ID": "6"})):
        async with http.get(STREAM + query, headers=headers) as answer:
            assert answer.status == 200
            await answer.read()
    assert [after for _, after in generator.resumed] == [0, 4, 6]


async def test_after_the_end_there_is_nothing_and_no_reason_to_come_again(http: aiohttp.ClientSession):
    async with http.get(STREAM, headers={"Last-Event-ID": "end"}) as answer:
        assert answer.status == 204


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "٣", "9" * 11])
async def test_what_is_no_number_of_tokens_is_refused(http: aiohttp.ClientSession, after: str):
    async with http.get(STREAM, params={"after": after}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "after"


async def test_an_unknown_session_is_not_found(http: aiohttp.ClientSession):
    async with http.get(f"/v1/sessions/{'1' * 32}/stream") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "session_not_found"
    async with http.delete(f"/v1/sessions/{'1' * 32}") as answer:
        assert answer.status == 404


async def test_a_session_is_ended_by_its_id(http: aiohttp.ClientSession, generator: ScriptedGenerator):
    async with http.delete(f"/v1/sessions/{SESSION}") as answer:
        assert answer.status == 204
    assert generator.ended == [SESSION]


async def says_nothing(_request: GenerationRequest) -> AsyncIterator[Delta]:
    await asyncio.Event().wait()
    yield delta("never")


async def says_one_thing(_request: GenerationRequest) -> AsyncIterator[Delta]:
    yield delta("x")
    await asyncio.Event().wait()


@pytest.mark.parametrize(("script", "unwanted"), [(says_nothing, 1), (says_one_thing, 0)])
async def test_nobody_comes_back_who_never_heard_the_id(
    http: aiohttp.ClientSession, generator: ScriptedGenerator, script: Script, unwanted: int
):
    generator.script = script
    asking = asyncio.ensure_future(http.post("/v1/completions", json=COMPLETION))
    await generator.started.wait()
    if unwanted:
        asking.cancel()
    else:
        (await asking).close()
    await asyncio.wait_for(generator.idle.wait(), 10)
    assert generator.unwanted == unwanted


async def test_who_comes_back_knows_the_id_and_may_come_again(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
):
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        await answer.read()
    generator.script = says_nothing
    generator.started.clear()
    generator.idle.clear()
    asking = asyncio.ensure_future(http.get(STREAM))
    await generator.started.wait()
    asking.cancel()
    await asyncio.wait_for(generator.idle.wait(), 10)
    assert generator.unwanted == 0


async def test_the_newer_client_is_told_apart_in_the_stream(http: aiohttp.ClientSession, generator: ScriptedGenerator):
    generator.script = fails(SessionTaken("newer"), "Hel")
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        events = events_of(await answer.text())
    assert events[-1][1]["error"]["code"] == "session_taken"


async def test_a_refusal_before_the_first_token_is_a_status_still(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
):
    generator.script = fails(Overloaded("full", retry_after_ms=2000))
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "2")


@pytest.mark.parametrize("more", [{"stream": False}, {"n": 2}, {"prompt": ["a", "b"]}])
async def test_only_one_streamed_sequence_is_resumable(http: aiohttp.ClientSession, more: dict[str, Any]):
    async with http.post("/v1/completions", json={**COMPLETION, **more}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "resumable"


async def test_the_request_says_that_it_is_resumable(http: aiohttp.ClientSession, generator: ScriptedGenerator):
    generator.script = says("x")
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        await answer.read()
    async with http.post("/v1/completions", json={"prompt": "hi"}) as answer:
        await answer.read()
    assert [request.resumable for request in generator.requests] == [True, False]
