"""Clients that lose their gateway in the middle of an answer and take up the rest at another: one for each door.

Plain aiohttp, nats-py and msgpack, nothing of Baton. An index that comes twice, or is left out, is an AssertionError.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgpack
from nats.aio.client import Client

GENERATE = "baton.v1.generate"


class Heard:
    """What a client has of one answer; `tokens` counts, where the door gives no ids."""

    def __init__(self) -> None:
        self.session = ""
        self.token_ids: list[int] = []
        self.tokens = 0
        self.text = ""
        self.finish = ""
        self.error = ""
        self.last_event_id = "0"

    def event(self, event: dict[str, Any]) -> None:
        """One of the WebSocket or of NATS."""
        match event["type"]:
            case "started":
                assert self.session in ("", event["session"])
                self.session = event["session"]
            case "delta":
                assert event["index"] == self.tokens
                self.token_ids += event["token_ids"]
                self.tokens = len(self.token_ids)
                self.text += event["text"]
            case "finished":
                self.finish = event["finish_reason"]
                assert event["usage"]["completion_tokens"] == self.tokens
            case "error":
                self.error = event["code"]

    @property
    def over(self) -> bool:
        return bool(self.finish or self.error)


async def over_websocket(
    http: aiohttp.ClientSession, url: str, message: dict[str, Any], heard: Heard
) -> AsyncIterator[Heard]:
    """Send `message` to the gateway at `url`; yields after each event, ends with the answer or the connection."""
    async with http.ws_connect(f"{url}/v1/stream") as socket:
        await socket.send_json({"id": "a", **message})
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                return
            heard.event(json.loads(frame.data))
            yield heard
            if heard.over:
                return


def resume(heard: Heard) -> dict[str, Any]:
    """The WebSocket message that asks for the rest."""
    return {"type": "resume", "session": heard.session, "after": heard.tokens}


async def over_http(
    http: aiohttp.ClientSession, url: str, body: dict[str, Any] | None, heard: Heard
) -> AsyncIterator[Heard]:
    """Ask the gateway at `url`, or without `body` for the rest, as an EventSource would."""
    if body is not None:
        asked = http.post(f"{url}/v1/completions", json={**body, "stream": True, "resumable": True})
    else:
        headers = {"Last-Event-ID": heard.last_event_id}
        asked = http.get(f"{url}/v1/sessions/{heard.session}/stream", headers=headers)
    try:
        async with asked as answer:
            assert answer.status == 200, await answer.text()
            heard.session = answer.headers["Baton-Session"]
            async for line in answer.content:
                _server_event(line.decode().strip(), heard)
                yield heard
    except aiohttp.ClientError:
        return


def _server_event(line: str, heard: Heard) -> None:
    if line.startswith("id: "):
        heard.last_event_id = line.removeprefix("id: ")
    elif line == "data: [DONE]":
        assert heard.last_event_id == "end"
    elif line.startswith("data: "):
        [choice] = json.loads(line.removeprefix("data: "))["choices"]
        heard.text += choice["text"]
        heard.finish = choice["finish_reason"] or ""
        heard.tokens = int(heard.last_event_id)


async def over_nats(client: Client, request: dict[str, Any], heard: Heard) -> AsyncIterator[Heard]:
    """Publish `request`; ends with the answer, or when the gateway is silent."""
    inbox = await client.subscribe(client.new_inbox())
    await client.publish(GENERATE, msgpack.packb({"v": 1, **request}), reply=inbox.subject)
    try:
        while not heard.over:
            message = await inbox.next_msg(timeout=1.5)
            heard.event(msgpack.unpackb(message.data))
            yield heard
    except TimeoutError:
        return
    finally:
        await inbox.unsubscribe()
