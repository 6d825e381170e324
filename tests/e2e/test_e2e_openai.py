"""The OpenAI SDK, unchanged, against real processes and the real model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest
from stack import Stack

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
async def sdk(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{stack.http_url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def test_chat_answers_the_question(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)  # type: ignore[arg-type]
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_streamed_chat_equals_the_whole_one(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)  # type: ignore[arg-type]
    stream = await sdk.chat.completions.create(
        model=MODEL,
        messages=QUESTION,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=32,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_a_completion_names_both_workers(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0)
    timings = (answer.model_extra or {})["baton"]
    assert timings["prefill_worker"] == "prefill-0"
    assert timings["decode_worker"] == "decode-0"
    assert timings["kv_bytes"] > 0


async def test_choices_of_one_prompt_differ_and_repeat(sdk: openai.AsyncOpenAI) -> None:
    async def choices() -> list[str]:
        answer = await sdk.completions.create(model=MODEL, prompt="My favourite", max_tokens=12, n=3, seed=5)
        return [choice.text for choice in answer.choices]

    first = await choices()
    assert len(set(first)) > 1
    assert await choices() == first


async def test_a_stop_string_ends_the_text_before_it(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=24, temperature=0)
    stop = whole.choices[0].text[5:9]
    cut = await sdk.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=24, temperature=0, stop=stop)
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].text == whole.choices[0].text.split(stop)[0]


async def test_models_and_health(sdk: openai.AsyncOpenAI, stack: Stack) -> None:
    assert [model.id async for model in sdk.models.list()] == [MODEL]
    async with aiohttp.ClientSession() as http:
        for path, status in (("/health", 200), ("/live", 200), ("/version", 200), ("/metrics", 200), ("/no", 404)):
            async with http.get(stack.http_url + path) as answer:
                assert answer.status == status, path


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"prompt": ""}, 400, "invalid_request"),
        ({"prompt": "a", "max_tokens": 100_000}, 400, "context_length_exceeded"),
        ({"prompt": [10_000_000]}, 400, "invalid_request"),
        ({"prompt": "a", "temperature": 9}, 400, "invalid_request"),
        ({"prompt": "a", "echo": True}, 400, "invalid_request"),
        ({"prompt": "a", "model": "other"}, 404, "model_not_found"),
    ],
)
async def test_bad_requests_get_typed_errors(stack: Stack, body: dict[str, object], status: int, code: str) -> None:
    async with aiohttp.ClientSession() as http, http.post(f"{stack.http_url}/v1/completions", json=body) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["code"] == code
