"""Seeded sampling over real processes: the same tokens alone, in company, and from one request to the next."""

from __future__ import annotations

import asyncio

import pytest
from nats.aio.client import Client
from nats_client import whole_answer

pytestmark = pytest.mark.model

PARAMETERS = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 1234}


async def test_the_same_seed_gives_the_same_tokens_alone_and_in_company(client: Client) -> None:
    alone = await whole_answer(client, prompt="Once upon a time", **PARAMETERS)
    others = [
        whole_answer(client, prompt=f"Number {number} is", **{**PARAMETERS, "seed": number}) for number in range(7)
    ]
    company = await asyncio.gather(whole_answer(client, prompt="Once upon a time", **PARAMETERS), *others)
    assert company[0]["token_ids"] == alone["token_ids"]


async def test_another_seed_gives_other_tokens(client: Client) -> None:
    first = await whole_answer(client, prompt="Once upon a time", **PARAMETERS)
    second = await whole_answer(client, prompt="Once upon a time", **{**PARAMETERS, "seed": 99})
    assert first["token_ids"] != second["token_ids"]
