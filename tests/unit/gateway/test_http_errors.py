"""Bad input at the HTTP door: typed errors, nothing started."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from http_door import Door
from scripted_generator import ScriptedGenerator, fails

from services.gateway.http import HttpSettings
from services.gateway.openai.body import LARGE_BODY_BYTES
from shared.errors import ContextExceeded, DeadlineExceeded, Draining, Overloaded, Unavailable

COMPLETION = {"model": "tiny", "prompt": "hi"}
JSON = {"Content-Type": "application/json"}


async def post(http: aiohttp.ClientSession, path: str, body: object) -> tuple[int, dict[str, str | None]]:
    """Status and error object of a request; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(path, data=data, headers=JSON) as response:
        return response.status, (await response.json())["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid UTF-8"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"model":"tiny","model":"tiny","prompt":"hi"}', "twice"),
        (b'{"model":"tiny","prompt":"hi","temperature":NaN}', "NaN"),
        (b'{"model":"tiny","prompt":"\\ud800"}', "not valid UTF-8"),
        (b'{"model":' * 5000, "nested too deeply"),
        (b"[" * 60000, "nested too deeply"),
        (b'{"seed":' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
async def test_a_body_that_is_no_object(
    http: aiohttp.ClientSession, generator: ScriptedGenerator, body: bytes, reason: str
) -> None:
    status, error = await post(http, "/v1/completions", body)
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_request")
    assert reason in str(error["message"])
    assert generator.requests == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["hi", ""]}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens"),
    ],
)
async def test_a_call_the_model_cannot_answer(
    http: aiohttp.ClientSession, generator: ScriptedGenerator, change: dict[str, object], param: str
) -> None:
    status, error = await post(http, "/v1/completions", COMPLETION | change)
    assert (status, error["param"], error["code"]) == (400, param, "invalid_request"), error
    assert generator.requests == []


async def test_a_prompt_that_fills_the_context(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    status, error = await post(http, "/v1/completions", COMPLETION | {"prompt": [1] * 64})
    assert (status, error["code"]) == (400, ContextExceeded.code)
    assert generator.requests == []


async def test_wrong_content_type(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", data=b"{}", headers={"Content-Type": "text/plain"}) as response:
        assert response.status == 400
        assert "Content-Type" in (await response.json())["error"]["message"]


async def test_compressed_bodies_are_refused(http: aiohttp.ClientSession) -> None:
    headers = JSON | {"Content-Encoding": "gzip"}
    async with http.post("/v1/completions", data=b"\x1f\x8b", headers=headers) as response:
        assert response.status == 400


async def test_unknown_route(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/nothing") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "not_found"


async def test_wrong_method(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/completions") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"


class TestOtherDoors:
    @pytest.fixture
    def app(self, app: web.Application) -> web.Application:
        async def refuse(request: web.Request) -> web.Response:
            raise web.HTTPForbidden(text="not from there")

        app.router.add_get("/other", refuse)
        return app

    async def test_what_their_routes_refuse_keeps_its_status(self, http: aiohttp.ClientSession) -> None:
        async with http.get("/other") as response:
            assert response.status == 403
            assert (await response.json())["error"]["message"] == "not from there"


@pytest.mark.parametrize(("error", "closes"), [(Draining("going"), True), (Overloaded("full"), False)])
async def test_a_gateway_that_stops_closes_the_connection_it_refuses_on(
    http: aiohttp.ClientSession, generator: ScriptedGenerator, error: Exception, *, closes: bool
) -> None:
    """Else the client sends its next request on it, into the void."""
    generator.script = fails(error)
    async with http.post("/v1/completions", json=COMPLETION) as response:
        assert (response.headers.get("Connection") == "close") is closes


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Unavailable("no decode", retry_after_ms=1), 503, "1"),
        (Draining("going"), 503, "1"),
        (Overloaded("full"), 429, "1"),
        (DeadlineExceeded("late"), 504, None),
        (ValueError("a bug"), 500, None),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_failures_before_the_first_token_are_statuses(
    http: aiohttp.ClientSession,
    generator: ScriptedGenerator,
    error: Exception,
    status: int,
    retry_after: str | None,
    *,
    stream: bool,
) -> None:
    generator.script = fails(error)
    async with http.post("/v1/completions", json=COMPLETION | {"stream": stream}) as response:
        assert response.status == status
        assert response.headers.get("Retry-After") == retry_after
        assert response.content_type == "application/json"
        assert "a bug" not in await response.text()


async def test_a_failure_of_a_whole_answer_is_a_status(
    http: aiohttp.ClientSession, generator: ScriptedGenerator
) -> None:
    generator.script = fails(DeadlineExceeded("late"), "some text")
    async with http.post("/v1/completions", json=COMPLETION) as response:
        assert response.status == 504


async def test_request_id_is_echoed_and_used(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    async with http.post("/v1/completions", json=COMPLETION, headers={"x-request-id": "abc-1"}) as response:
        assert response.headers["x-request-id"] == "abc-1"
        assert (await response.json())["id"] == "cmpl-abc-1"
    assert generator.requests[0].request_id == "abc-1"


async def test_request_id_is_made_where_none_came(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    async with http.post("/v1/completions", json=COMPLETION) as response:
        assert response.headers["x-request-id"] == generator.requests[0].request_id


async def test_unusable_request_id(http: aiohttp.ClientSession) -> None:
    async with http.get("/live", headers={"x-request-id": "a b"}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "x-request-id"


async def exchange(door: Door, *sent: bytes) -> bytes:
    """What the server answers to raw bytes, up to the end of the first JSON object."""
    reader, writer = await asyncio.open_connection(door.host, door.port)
    try:
        for data in sent:
            writer.write(data)
        return await reader.readuntil(b"}}")
    finally:
        writer.close()


def head(*headers: str) -> bytes:
    lines = ["POST /v1/completions HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_an_announced_large_body_is_refused_unread(door: Door) -> None:
    answer = await exchange(door, head("Content-Length: 100000000"))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"payload_too_large" in answer


async def test_a_large_body_is_not_asked_for(door: Door) -> None:
    answer = await exchange(door, head("Content-Length: 100000000", "Expect: 100-continue"))
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_allowed_body_is_asked_for(door: Door) -> None:
    body = json.dumps(COMPLETION).encode()
    answer = await exchange(
        door, head(f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"), body
    )
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


async def test_an_endless_body_is_cut(door: Door) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = await exchange(door, head("Transfer-Encoding: chunked"), *[chunk] * 5)
    assert answer.startswith(b"HTTP/1.1 413 ")


class TestBodyTimeout:
    @pytest.fixture
    def http_settings(self) -> HttpSettings:
        return HttpSettings(version="1", system_fingerprint="fp", body_timeout_s=0.05)

    async def test_a_body_that_does_not_come(self, door: Door) -> None:
        answer = await exchange(door, head("Content-Length: 10"), b"{")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"did not arrive" in answer

    async def test_a_body_with_broken_framing(self, door: Door) -> None:
        reader, writer = await asyncio.open_connection(door.host, door.port)
        writer.write(head("Transfer-Encoding: chunked", "Expect: 100-continue"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"zz\r\n")
        answer = await reader.readuntil(b"}}")
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_large_body_is_read_like_a_small_one(http: aiohttp.ClientSession, generator: ScriptedGenerator) -> None:
    body = json.dumps(COMPLETION | {"user": "u"}).encode()
    padded = body[:-1] + b" " * LARGE_BODY_BYTES + b"}"
    status, _ = await post(http, "/v1/completions", padded[:-1])
    assert status == 400
    async with http.post("/v1/completions", data=padded, headers=JSON) as response:
        assert response.status == 200
    assert len(generator.requests) == 1


class TestBodyMemory:
    @pytest.fixture
    def http_settings(self) -> HttpSettings:
        return HttpSettings(
            version="1",
            system_fingerprint="fp",
            body_limit_bytes=1 << 18,
            bodies_limit_bytes=1 << 18,
            body_timeout_s=20,
        )

    async def test_bodies_that_arrive_at_once_share_it(self, door: Door, http: aiohttp.ClientSession) -> None:
        reader, writer = await asyncio.open_connection(door.host, door.port)
        sent = b" " * (3 << 16)
        writer.write(head(f"Content-Length: {len(sent) + 2}"))
        writer.write(sent)
        await writer.drain()
        body = json.dumps(COMPLETION).encode() + b" " * (1 << 16)
        statuses = []
        while 429 not in statuses:
            async with http.post("/v1/completions", data=body, headers=JSON) as response:
                statuses.append(response.status)
        assert response.headers["Retry-After"] == "1"
        writer.write(b"{}")
        assert b"400" in await reader.readline()
        writer.close()
        async with http.post("/v1/completions", data=body, headers=JSON) as response:
            assert response.status == 200

    async def test_what_is_only_announced_holds_nothing(self, door: Door, http: aiohttp.ClientSession) -> None:
        waiting = [await asyncio.open_connection(door.host, door.port) for _ in range(8)]
        for _, writer in waiting:
            writer.write(head(f"Content-Length: {1 << 18}"))
            await writer.drain()
        async with http.post("/v1/completions", data=json.dumps(COMPLETION).encode(), headers=JSON) as response:
            assert response.status == 200
        for _, writer in waiting:
            writer.close()
