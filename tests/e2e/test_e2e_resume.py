"""The real model: its gateway is killed in the middle of a sampled answer, another one goes on with the same tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.aio.client import Client
from nats_client import whole_answer
from resuming import Heard, over_websocket, resume
from second_gateway import second_gateway
from stack import Stack

from services.local.health import until_healthy

pytestmark = [pytest.mark.model, pytest.mark.timeout(120)]

BACK_WITHIN_S = 30.0
PARAMETERS = {"prompt": "Once upon a time", "max_tokens": 64, "temperature": 0.9, "seed": 1234, "ignore_eos": True}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


async def test_another_gateway_goes_on_with_the_same_tokens(
    stack: Stack, client: Client, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    undisturbed: dict[str, Any] = await whole_answer(client, **PARAMETERS)
    heard = Heard()
    with second_gateway(stack, tmp_path / "gateway-b.log") as other_url:
        request = {"type": "generate", "resumable": True, **PARAMETERS}
        async for now in over_websocket(http, stack.http_url, request, heard):
            if now.tokens == 20:
                stack.process("gateway-0").kill()
        assert not heard.over
        async for _ in over_websocket(http, other_url, resume(heard), heard):
            pass
    assert heard.token_ids == undisturbed["token_ids"]
    assert heard.text == undisturbed["text"]
    await until_healthy(stack.http_url, BACK_WITHIN_S)
