"""From calls to generation requests: prompts, context, seeds, limits."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_generator import MODEL, ByteTokenizer, PlainTemplate

from services.gateway.openai.params import parse_chat, parse_completion
from services.gateway.requests import RequestBuilder
from shared.errors import ContextExceeded, InvalidRequest, ModelNotFound


async def built(builder: RequestBuilder, **body: Any) -> list[Any]:
    return await builder.completion(parse_completion({"prompt": "hi"} | body), request_id="r")


async def test_one_request_keeps_the_request_id(builder: RequestBuilder) -> None:
    (request,) = await built(builder, max_tokens=5, stop=["x"], seed=3)
    assert (request.request_id, request.max_tokens, request.stop, request.sampling.seed) == ("r", 5, ("x",), 3)


async def test_choices_of_a_prompt_differ_in_seed_and_id(builder: RequestBuilder) -> None:
    requests = await built(builder, prompt=["a", "b"], n=2, seed=3)
    assert [request.sampling.seed for request in requests] == [3, 4, 3, 4]
    assert [request.request_id for request in requests] == ["r-0", "r-1", "r-2", "r-3"]
    assert [request.prompt_ids[-1] for request in requests] == [97, 97, 98, 98]


async def test_the_largest_seed_goes_round(builder: RequestBuilder) -> None:
    requests = await built(builder, n=2, seed=2**63 - 1)
    assert [request.sampling.seed for request in requests] == [2**63 - 1, 0]


async def test_the_context_may_be_filled(builder: RequestBuilder) -> None:
    (request,) = await built(builder, prompt=[1] * 60, max_tokens=4)
    assert len(request.prompt_ids) + request.max_tokens == MODEL.context_tokens


async def test_one_token_more_than_the_context(builder: RequestBuilder) -> None:
    with pytest.raises(ContextExceeded, match="64 tokens: the prompt's 60 and 5 to generate are 65"):
        await built(builder, prompt=[1] * 60, max_tokens=5)


async def test_a_chat_may_take_the_rest_of_the_context(builder: RequestBuilder) -> None:
    call = parse_chat({"messages": [{"role": "user", "content": "hi"}]})
    (request,) = await builder.chat(call, request_id="r")
    assert len(request.prompt_ids) + request.max_tokens == MODEL.context_tokens


async def test_a_chat_that_leaves_no_room_names_its_messages(builder: RequestBuilder) -> None:
    call = parse_chat({"messages": [{"role": "user", "content": "h" * 60}]})
    with pytest.raises(ContextExceeded) as caught:
        await builder.chat(call, request_id="r")
    assert caught.value.param == "messages"


async def test_any_model_when_none_is_named(builder: RequestBuilder) -> None:
    assert await built(builder, model=None)
    with pytest.raises(ModelNotFound):
        await built(builder, model="other")


@pytest.mark.parametrize("body", [{"logit_bias": {"300": 1}}, {"stop_token_ids": [300]}, {"prompt": [300]}])
async def test_token_ids_outside_the_vocabulary(builder: RequestBuilder, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="token id 300 is outside the vocabulary of 300") as caught:
        await built(builder, **body)
    assert caught.value.param == next(iter(body))


async def test_more_sequences_than_allowed() -> None:
    builder = RequestBuilder(MODEL, ByteTokenizer(), PlainTemplate(), sequence_limit=3)
    with pytest.raises(InvalidRequest, match="2 prompts x n=2"):
        await built(builder, prompt=["a", "b"], n=2)


async def test_lone_surrogates_are_refused(builder: RequestBuilder) -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        await builder.prompt_ids("\ud800")


async def test_a_text_that_encodes_to_nothing_is_empty(builder: RequestBuilder) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        await builder.prompt_ids("", add_special_tokens=False)
