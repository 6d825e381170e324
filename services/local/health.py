"""Waits until a gateway says that requests can be served."""

from __future__ import annotations

import asyncio

import aiohttp

from shared.errors import DeadlineExceeded

PAUSE_S = 0.05


async def until_healthy(http_url: str, timeout_s: float) -> None:
    """Ask /health until it answers 200. Raises DeadlineExceeded with what it answered instead."""
    answer = "no answer"
    try:
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{http_url}/health") as response:
                        if response.status == 200:
                            return
                        answer = await response.text()
                except aiohttp.ClientError as error:
                    answer = str(error)
                await asyncio.sleep(PAUSE_S)
    except TimeoutError:
        raise DeadlineExceeded(f"{http_url}/health is not well within {timeout_s:.0f} s: {answer}") from None
