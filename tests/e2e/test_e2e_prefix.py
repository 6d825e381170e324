"""A chat of several turns with the real model in bf16: what is cached changes nothing but the work."""

from __future__ import annotations

import pytest
from nats.aio.client import Client
from nats_client import whole_answer

pytestmark = pytest.mark.model

BLOCK_TOKENS = 64
STORY = "The lighthouse keeper wrote every evening into a heavy book what the sea had done that day. " * 12
ASKED = {"max_tokens": 40, "ignore_eos": True}


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "seed": 5}], ids=["greedy", "seeded"])
async def test_every_turn_of_a_chat_is_computed_and_sent_from_where_it_is_new(
    client: Client, sampling: dict[str, float]
) -> None:
    """Each turn is asked a second time with a salt of its own: the tokens of nothing cached."""
    name = f"prefix {sampling}"
    chat = STORY
    known_tokens = 0
    for turn in range(3):
        got = await whole_answer(client, prompt=chat, cache_salt=name, **ASKED, **sampling)
        fresh = await whole_answer(client, prompt=chat, cache_salt=f"{name} {turn}", **ASKED, **sampling)
        assert got["token_ids"] == fresh["token_ids"]
        assert (got["timings"].get("cached_tokens") or 0) == known_tokens
        prompt_tokens = got["usage"]["prompt_tokens"]
        known_tokens = prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS
        if turn:
            assert got["timings"]["kv_bytes"] < fresh["timings"]["kv_bytes"] / 2
        chat += got["text"] + " And then, one winter,"
