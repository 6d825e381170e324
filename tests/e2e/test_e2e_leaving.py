"""Clients that leave, over every door: both workers have all their KV memory back within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import msgpack
import pytest
from beats import Beat, BeatWatch
from nats.aio.client import Client
from stack import Stack

pytestmark = pytest.mark.model

FREED_WITHIN_S = 1.0
LONG = {"prompt": "Tell me a very long story.", "max_tokens": 4000, "ignore_eos": True}

Leave = Callable[[], Awaitable[None]]


def decoding(workers: dict[str, Beat]) -> bool:
    """The prompt is computed, handed over, and decode holds the session."""
    return all(beat["sessions"] == (beat["role"] == "decode") for beat in workers.values())


async def assert_freed(beats: BeatWatch) -> None:
    started_s = time.monotonic()
    await beats.at_rest()
    assert time.monotonic() - started_s < FREED_WITHIN_S


@pytest.mark.parametrize("stream", [True, False])
async def test_http_client_disconnects(stack: Stack, beats: BeatWatch, stream: bool) -> None:
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(f"{stack.http_url}/v1/completions", json={**LONG, "stream": stream}))
        await beats.until(decoding)
        if stream:
            (await asking).close()
        else:
            asking.cancel()
    await assert_freed(beats)


async def test_http_client_disconnects_during_prefill(stack: Stack, beats: BeatWatch) -> None:
    prompt = "word " * 3000
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.post(f"{stack.http_url}/v1/completions", json={"prompt": prompt}))
        await beats.until(lambda workers: any(b["sessions"] for b in workers.values() if b["role"] == "prefill"))
        asking.cancel()
    await assert_freed(beats)


async def test_websocket_client_cancels(stack: Stack, beats: BeatWatch) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{stack.http_url}/v1/stream") as socket:
        await socket.send_json({"type": "generate", "id": "a", **LONG})
        await beats.until(decoding)
        await socket.send_json({"type": "cancel", "id": "a"})
        await assert_freed(beats)
        events = [await socket.receive_json()]
        while events[-1]["type"] != "finished":
            events.append(await socket.receive_json())
        assert events[-1]["finish_reason"] == "cancelled"


async def test_websocket_client_disconnects(stack: Stack, beats: BeatWatch) -> None:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{stack.http_url}/v1/stream") as socket:
        for name in ("a", "b", "c"):
            await socket.send_json({"type": "generate", "id": name, **LONG})
        await beats.until(lambda workers: any(beat["sessions"] == 3 for beat in workers.values()))
    await assert_freed(beats)


async def test_nats_client_stops_listening(client: Client, beats: BeatWatch) -> None:
    inbox = client.new_inbox()
    listening = await client.subscribe(inbox)
    await client.publish("baton.v1.generate", msgpack.packb({"v": 1, **LONG}), reply=inbox)
    await beats.until(decoding)
    await listening.unsubscribe()
    await assert_freed(beats)
