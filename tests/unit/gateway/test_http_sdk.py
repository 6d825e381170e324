"""The openai SDK, unchanged, against the HTTP door."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI
from scripted_generator import ScriptedGenerator, fails, says

from services.gateway.generation import Delta, GenerationRequest
from shared.core import FinishReason
from shared.errors import Overloaded, WorkerFailed


async def test_completion(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    answer = await client.completions.create(model="tiny", prompt="hi", max_tokens=12)
    assert answer.choices[0].text == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 11, 14)
    assert answer.object == "text_completion"
    assert answer.system_fingerprint == "fp_tiny"
    assert generator.requests[0].prompt_ids == (256, *b"hi")
    assert generator.requests[0].max_tokens == 12


async def test_extra_timings_stand_beside_usage(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="tiny", prompt="hi")
    assert answer.model_extra is not None
    assert answer.model_extra["baton"]["prefill_worker"] == "p0"
    assert answer.model_extra["baton"]["kv_bytes"] == 4096


async def test_completion_stream(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="tiny", prompt="hi", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [c.choices[0].text for c in chunks[:-1]] == ["Hello", " world"]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, "stop"]
    assert [c.usage for c in chunks[:-1]] == [None, None]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 11
    assert chunks[-1].model_extra is not None
    assert chunks[-1].model_extra["baton"]["decode_worker"] == "d0"
    assert len({(c.id, c.created, c.model, c.object, c.system_fingerprint) for c in chunks}) == 1


async def test_chat(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    answer = await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "Hello world"
    assert generator.requests[0].prompt_ids == tuple(b"user:hi\nassistant:")
    assert generator.requests[0].max_tokens == 64 - len(generator.requests[0].prompt_ids)


async def test_chat_stream_has_its_role_with_the_first_text(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert [(c.choices[0].delta.role, c.choices[0].delta.content) for c in chunks] == [
        ("assistant", "Hello"),
        (None, " world"),
    ]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert {c.usage for c in chunks} == {None}


async def test_chat_stream_helper(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(model="tiny", messages=[{"role": "user", "content": "hi"}]) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello world"


async def test_length_is_a_finish_reason(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    generator.script = says("ab", finish=FinishReason.LENGTH)
    answer = await client.completions.create(model="tiny", prompt="hi", max_tokens=2)
    assert answer.choices[0].finish_reason == "length"


async def test_prompts_and_choices_have_their_own_index_and_seed(
    client: AsyncOpenAI, generator: ScriptedGenerator
) -> None:
    def script(request: GenerationRequest) -> AsyncIterator[Delta]:
        return says(f"{chr(request.prompt_ids[-1])}{request.sampling.seed}")(request)

    generator.script = script
    answer = await client.completions.create(model="tiny", prompt=["a", "b"], n=2, seed=7)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a7"), (1, "a8"), (2, "b7"), (3, "b8")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4
    assert answer.model_extra is not None
    assert len(answer.model_extra["baton"]["choices"]) == 4
    assert len({request.request_id for request in generator.requests}) == 4


async def test_streamed_choices_each_bring_role_and_finish(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], n=3, stream=True
    )
    texts, roles, finishes = ["", "", ""], [0, 0, 0], [0, 0, 0]
    async for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        finishes[choice.index] += choice.finish_reason == "stop"
    assert texts == ["Hello world"] * 3
    assert roles == finishes == [1, 1, 1]


async def test_token_id_prompts(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    await client.completions.create(model="tiny", prompt=[5, 6, 7])
    await client.completions.create(model="tiny", prompt=[[1, 2], [3]])
    assert sorted(request.prompt_ids for request in generator.requests) == [(1, 2), (3,), (5, 6, 7)]


async def test_continuous_usage_is_on_every_chunk(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="tiny",
        prompt="hi",
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},  # type: ignore[typeddict-unknown-key]
    )
    counts = [chunk.usage.completion_tokens async for chunk in stream if chunk.usage]
    assert counts == [5, 11, 11]


async def test_completion_logprobs(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    generator.script = says("ab", "c")
    stream = await client.completions.create(model="tiny", prompt="hi", logprobs=2, stream=True)
    first, second = [chunk.choices[0].logprobs async for chunk in stream]
    assert first is not None
    assert second is not None
    assert (first.tokens, second.tokens) == (["a", "b"], ["c"])
    assert (first.text_offset, second.text_offset) == ([0, 1], [2])
    assert first.token_logprobs == [-0.5, -0.5]
    assert first.top_logprobs == [{"a": -0.5, "!": -2.0}, {"b": -0.5, "!": -2.0}]


async def test_chat_logprobs(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    generator.script = says("é")
    answer = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert [token.bytes for token in content] == [[0xC3], [0xA9]]
    assert [(top.token, top.logprob, top.bytes) for top in content[0].top_logprobs][1] == ("!", -2.0, [33])


async def test_no_logprobs_unless_asked(client: AsyncOpenAI) -> None:
    answer = await client.completions.create(model="tiny", prompt="hi")
    assert answer.choices[0].logprobs is None


async def test_overload_is_a_rate_limit_error(client: AsyncOpenAI, generator: ScriptedGenerator) -> None:
    generator.script = fails(Overloaded("full", retry_after_ms=1200))
    with pytest.raises(openai.RateLimitError) as caught:
        await client.completions.create(model="tiny", prompt="hi", stream=True)
    assert caught.value.response.headers["retry-after"] == "2"
    assert caught.value.code == "overloaded"


async def test_an_error_in_a_stream_reaches_the_reader_after_its_text(
    client: AsyncOpenAI, generator: ScriptedGenerator
) -> None:
    generator.script = fails(WorkerFailed("gone"), "some", " text")
    stream = await client.completions.create(model="tiny", prompt="hi", stream=True)
    assert (await anext(stream)).choices[0].text == "some"
    assert (await anext(stream)).choices[0].text == " text"
    with pytest.raises(openai.APIError, match="gone"):
        await anext(stream)


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("tiny")).created == 1_700_000_000
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("some/other")


async def test_unknown_model(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.completions.create(model="other", prompt="hi")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_context_exceeded_names_the_numbers(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"64.* 3 .*62.*65") as caught:
        await client.completions.create(model="tiny", prompt="hi", max_tokens=62)
    assert caught.value.code == "context_length_exceeded"
