"""A gateway dies, or stands still, in the middle of resumable answers: their clients get the rest elsewhere, once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import pytest
from resuming import Heard, over_http, over_nats, over_websocket, resume
from second_gateway import second_gateway
from stack import Stack

from services.chat.answerer import Answerer
from services.chat.connection import GatewayConnection
from services.chat.conversation import Conversation
from services.chat.settings import ChatSettings, stream_url
from shared.text.tokenizer import Tokenizer

from .conftest import Measured
from .scene import Scene, scene_of

pytestmark = [pytest.mark.model, pytest.mark.timeout(90)]

RESUMED_WITHIN_S = 5.0
KILLED = "gateway-0"


@pytest.fixture(scope="module")
def other_url(two_by_two: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second gateway of the same fleet."""
    with second_gateway(two_by_two, tmp_path_factory.mktemp("logs") / "gateway-b.log") as url:
        yield url


@pytest.fixture
async def scene(two_by_two: Stack, other_url: str, model_folder: Path) -> AsyncIterator[Scene]:
    async with scene_of(two_by_two, model_folder) as scene:
        yield scene


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


@pytest.fixture(scope="module")
def tokenizer(model_folder: Path) -> Tokenizer:
    return Tokenizer.load(model_folder)


def asked(scene: Scene, tokens: int, max_tokens: int, seed: int = 1) -> dict[str, Any]:
    return scene.request(tokens, max_tokens, seed, ignore_eos=True, temperature=0)


def generate(request: dict[str, Any]) -> dict[str, Any]:
    return {"type": "generate", "resumable": True, **request}


async def read_until(heard: AsyncIterator[Heard], tokens: int) -> None:
    """Until there are so many tokens."""
    async for now in heard:
        if now.tokens >= tokens:
            return


async def read_to_the_end(heard: AsyncIterator[Heard]) -> None:
    async for _ in heard:
        pass


async def first_again_s(heard: AsyncIterator[Heard], since_s: float) -> float:
    """Read to the end; how long after `since_s` the first new token came."""
    before: int | None = None
    first_s = 0.0
    async for now in heard:
        before = now.tokens if before is None else before
        if not first_s and now.tokens > before:
            first_s = time.monotonic() - since_s
    return first_s


async def test_websocket_clients_go_on_at_another_gateway(
    scene: Scene, other_url: str, http: aiohttp.ClientSession, measured: Measured
):
    requests = [asked(scene, 20, 200, seed) for seed in range(3)]
    heard = [Heard() for _ in requests]
    streams = [
        over_websocket(http, scene.stack.http_url, generate(request), one)
        for request, one in zip(requests, heard, strict=True)
    ]
    await asyncio.gather(*(read_until(stream, 30) for stream in streams))
    killed_s = scene.kill(KILLED)
    await asyncio.gather(*(read_to_the_end(stream) for stream in streams))
    assert not any(one.over for one in heard)
    rests = (over_websocket(http, other_url, resume(one), one) for one in heard)
    pauses_s = await asyncio.gather(*(first_again_s(rest, killed_s) for rest in rests))
    assert [one.token_ids for one in heard] == [scene.undisturbed(request) for request in requests]
    assert {one.finish for one in heard} == {"length"}
    measured(max(pauses_s))
    assert max(pauses_s) < RESUMED_WITHIN_S


async def test_an_event_source_goes_on_at_another_gateway(
    scene: Scene, other_url: str, http: aiohttp.ClientSession, tokenizer: Tokenizer
):
    request, heard = asked(scene, 20, 150), Heard()
    stream = over_http(http, scene.stack.http_url, request, heard)
    await read_until(stream, 30)
    scene.kill(KILLED)
    await read_to_the_end(stream)
    assert not heard.over
    await read_to_the_end(over_http(http, other_url, None, heard))
    assert heard.text == tokenizer.decode(scene.undisturbed(request), skip_special_tokens=True)
    assert (heard.tokens, heard.finish) == (150, "length")
    async with http.get(f"{other_url}/v1/sessions/{heard.session}/stream?after=end") as answer:
        assert answer.status == 204


async def test_a_nats_client_goes_on_at_another_gateway(scene: Scene):
    request, heard = asked(scene, 20, 200), Heard()
    stream = await _taken_by(KILLED, scene, request, heard)
    await read_until(stream, 30)
    scene.kill(KILLED)
    await read_to_the_end(stream)
    assert not heard.over
    await read_to_the_end(over_nats(scene.client, {"resume": heard.session, "after": heard.tokens}, heard))
    assert heard.token_ids == scene.undisturbed(request)


async def _taken_by(gateway: str, scene: Scene, request: dict[str, Any], heard: Heard) -> AsyncIterator[Heard]:
    """Ask over NATS until it is `gateway` that takes the request; the others' answers are left alone."""
    while True:
        stream = over_nats(scene.client, {"resumable": True, **request}, heard)
        await read_until(stream, 1)
        placed = [msgpack.unpackb(message.data) for message in scene.messages("baton.v1.scheduler.place")]
        if next(order["gateway"] for order in placed if order["session"] == heard.session) == gateway:
            return stream
        await read_to_the_end(stream)
        heard.__init__()  # type: ignore[misc]


async def test_the_same_gateway_goes_on_once_it_is_back(scene: Scene, http: aiohttp.ClientSession):
    request, heard = asked(scene, 20, 400), Heard()
    stream = over_websocket(http, scene.stack.http_url, generate(request), heard)
    await read_until(stream, 30)
    scene.kill(KILLED)
    await read_to_the_end(stream)
    await scene.back(KILLED)
    await read_to_the_end(over_websocket(http, scene.stack.http_url, resume(heard), heard))
    assert heard.token_ids == scene.undisturbed(request)


async def test_a_chat_shows_one_answer(scene: Scene):
    """`baton chat` resumes by itself; asked again, undisturbed, the same question has the same answer."""
    shown: list[str] = []
    notices: list[str] = []
    said = asyncio.Event()

    def show(text: str) -> None:
        shown.append(text)
        said.set()

    connection = GatewayConnection(stream_url(scene.stack.http_url))
    settings = ChatSettings(url=scene.stack.http_url, max_tokens=150, temperature=0.0)
    for killed in (True, False):
        answerer = Answerer(connection, Conversation(), settings, show, notices.append)
        async with asyncio.TaskGroup() as group:
            group.create_task(answerer.ask("Who goes there?"))
            await said.wait()
            if killed:
                scene.kill(KILLED)
    await connection.close()
    text = "".join(shown)
    assert text[: len(text) // 2] == text[len(text) // 2 :]


async def test_a_prompt_that_is_being_read_is_read_again(scene: Scene, other_url: str, http: aiohttp.ClientSession):
    request, heard = asked(scene, 400, 30), Heard()
    stream = over_websocket(http, scene.stack.http_url, generate(request), heard)
    await anext(stream)
    await scene.message("baton.v1.kv.*.*.chunk")
    scene.kill(KILLED)
    await read_to_the_end(stream)
    assert heard.tokens == 0
    await read_to_the_end(over_websocket(http, other_url, resume(heard), heard))
    assert heard.token_ids == scene.undisturbed(request)


async def test_a_gateway_that_stood_still_lets_go(scene: Scene, other_url: str, http: aiohttp.ClientSession):
    """Frozen for long enough that workers and gateways take it for dead; when it goes on, it has lost the session."""
    request, heard, rest = asked(scene, 20, 1200), Heard(), Heard()
    stream = over_websocket(http, scene.stack.http_url, generate(request), heard)
    await read_until(stream, 30)
    scene.kill(KILLED, signal.SIGSTOP)
    try:
        rest.session, rest.token_ids, rest.tokens = heard.session, list(heard.token_ids), heard.tokens
        resumed = over_websocket(http, other_url, resume(rest), rest)
        await read_until(resumed, 100)
        orders = len(scene.orders(heard.session))
        await asyncio.sleep(3.0)
    finally:
        scene.kill(KILLED, signal.SIGCONT)
    await asyncio.gather(read_to_the_end(stream), read_to_the_end(resumed))
    assert heard.error == "session_taken"
    assert rest.token_ids == scene.undisturbed(request)
    assert heard.token_ids == rest.token_ids[: heard.tokens]
    assert len(scene.orders(heard.session)) == orders
