"""Streams on WebSockets, and the time between the deltas of each."""

from __future__ import annotations

import asyncio
import itertools
import json
import time

import aiohttp
import msgspec


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """So many streams at once, each of so many tokens after a prompt of so many."""

    streams: int
    tokens: int
    prompt_tokens: int = 64


async def run(url: str, load: Load, *, resumable: bool) -> list[float]:
    """All gaps between two deltas of a stream, in seconds."""
    async with aiohttp.ClientSession() as http:
        streams = (_stream(http, url, load, number, resumable) for number in range(load.streams))
        gaps = await asyncio.gather(*streams)
    return [gap_s for of_stream in gaps for gap_s in of_stream]


async def _stream(http: aiohttp.ClientSession, url: str, load: Load, number: int, resumable: bool) -> list[float]:
    moments_s: list[float] = []
    async with http.ws_connect(f"{url}/v1/stream") as socket:
        await socket.send_json(
            {
                "type": "generate",
                "id": "a",
                "prompt": [(number * 7919 + place * 31) % 1000 for place in range(load.prompt_tokens)],
                "max_tokens": load.tokens,
                "ignore_eos": True,
                "temperature": 0,
                "resumable": resumable,
            }
        )
        async for frame in socket:
            event = json.loads(frame.data)
            if event["type"] == "delta":
                moments_s.append(time.monotonic())
            elif event["type"] in ("finished", "error"):
                if event["type"] == "error":
                    raise SystemExit(f"{event['code']}: {event['message']}")
                break
    return [later - earlier for earlier, later in itertools.pairwise(moments_s)]
