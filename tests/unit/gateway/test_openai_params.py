"""Request bodies to calls: what is taken, what is refused, and that nothing is ignored in silence."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.openai.param_bodies import CHAT_NO_OPS, COMPLETION_NO_OPS, ChatBody, CompletionBody
from services.gateway.openai.params import ChatCall, CompletionCall, parse_chat, parse_completion
from shared.core import SamplingParams
from shared.errors import InvalidRequest

HELLO = [{"role": "user", "content": "hello"}]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def completion(**fields: Any) -> CompletionCall:
    return parse_completion({"prompt": "hello", **fields})


def chat(**fields: Any) -> ChatCall:
    return parse_chat({"messages": HELLO, **fields})


def refusal_of(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        parse_chat(body) if "messages" in body else parse_completion(body)
    return refusal.value


def test_a_bare_completion_has_openai_defaults() -> None:
    call = completion(seed=1)
    assert call.prompts == ("hello",)
    assert (call.model, call.n, call.max_tokens, call.stop, call.stream) == (None, 1, 16, (), False)
    assert call.sampling == SamplingParams(seed=1)


def test_a_bare_chat_may_use_the_rest_of_the_context() -> None:
    call = chat()
    assert call.max_tokens is None
    assert [(message.role, message.content) for message in call.messages] == [("user", "hello")]


def test_every_sampling_parameter_arrives() -> None:
    wanted = SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        seed=7,
        repetition_penalty=1.2,
        presence_penalty=-1.0,
        frequency_penalty=1.5,
        logit_bias={5: -100.0, 6: 3.5},
        logprobs=4,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=(3, 4),
    )
    fields: dict[str, Any] = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    fields |= {"logit_bias": {"5": -100, "6": 3.5}, "stop_token_ids": [3, 4]}
    assert completion(**fields).sampling == wanted
    assert chat(**fields | {"logprobs": True, "top_logprobs": 4}).sampling == wanted


def test_stream_options_arrive() -> None:
    call = chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert (call.stream, call.include_usage, call.continuous_usage_stats) == (True, True, True)


def test_labels_change_nothing_but_their_types_are_checked() -> None:
    call = chat(user="u", safety_identifier="s", metadata={"a": "b"}, seed=1)
    assert call.sampling == chat(seed=1).sampling
    assert refusal_of({"messages": HELLO, "user": 1}).param == "user"
    assert refusal_of({"messages": HELLO, "metadata": {"a": 1}}).param == "metadata"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
def test_prompts(prompt: Any, prompts: tuple[Any, ...]) -> None:
    assert parse_completion({"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [1, "a"], [[1], "a"], [1, [2]], [-1], [2**31], [True], {}, 1])
def test_prompts_refused(prompt: Any) -> None:
    assert (refusal_of({"prompt": prompt}).param or "").startswith("prompt")


@pytest.mark.parametrize(("stop", "strings"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ()), (None, ())])
def test_stop(stop: Any, strings: tuple[str, ...]) -> None:
    assert completion(stop=stop).stop == strings


@pytest.mark.parametrize("stop", ["", ["a", ""], ["a"] * 17])
def test_stop_refused(stop: Any) -> None:
    assert refusal_of({"prompt": "a", "stop": stop}).param == "stop"


def test_a_cache_salt_is_passed_on() -> None:
    assert completion().cache_salt == completion(cache_salt=None).cache_salt == ""
    assert chat(cache_salt="tenant ü").cache_salt == "tenant ü"


@pytest.mark.parametrize("salt", ["", "x" * 257, "a\nb", "\ud800", 3])
def test_a_cache_salt_that_is_none_is_refused(salt: Any) -> None:
    assert refusal_of({"prompt": "hello", "cache_salt": salt}).param == "cache_salt"


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_off(top_k: int) -> None:
    assert completion(top_k=top_k).sampling.top_k == 0


def test_max_completion_tokens_is_the_newer_name_of_max_tokens() -> None:
    assert completion(max_completion_tokens=5).max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=5).max_tokens == 5
    assert refusal_of({"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 6}).param == "max_tokens"


def test_completion_logprobs_is_a_number_and_chat_logprobs_a_switch() -> None:
    assert completion(logprobs=0).sampling.logprobs == 0
    assert chat(logprobs=True).sampling.logprobs == 0
    assert chat(logprobs=False, top_logprobs=0).sampling.logprobs is None
    assert refusal_of({"prompt": "a", "logprobs": True}).param == "logprobs"
    assert refusal_of({"messages": HELLO, "logprobs": 1}).param == "logprobs"
    assert refusal_of({"messages": HELLO, "top_logprobs": 1}).param == "top_logprobs"


def test_an_absent_seed_is_drawn_at_random() -> None:
    assert len({completion().sampling.seed for _ in range(8)}) == 8
    assert completion(seed=-(2**63)).sampling.seed == -(2**63)


@pytest.mark.parametrize("name", sorted({*CompletionBody.__struct_fields__, *COMPLETION_NO_OPS} - {"prompt", "seed"}))
def test_null_counts_as_absent(name: str) -> None:
    assert completion(**{"seed": 1, name: None}) == completion(seed=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", True),
        ("temperature", "1"),
        ("top_p", 1.1),
        ("top_k", -2),
        ("top_k", 1.0),
        ("min_p", -1),
        ("seed", 2**63),
        ("n", 0),
        ("n", 17),
        ("n", True),
        ("max_tokens", 0),
        ("min_tokens", -1),
        ("repetition_penalty", 0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logprobs", 21),
        ("stream", 1),
        ("ignore_eos", "yes"),
        ("stop_token_ids", [-1]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": math.nan}),
        ("logit_bias", {"1": "a"}),
        ("stream_options", {"include_usage": True}),
        ("best_of", 2),
        ("echo", True),
        ("suffix", "a"),
        ("service_tier", "flex"),
    ],
)
def test_refused_by_name(name: str, value: Any) -> None:
    assert refusal_of({"prompt": "a", name: value}).param == name


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "seed", "stop_token_ids", "logit_bias", "prompt"])
def test_huge_integers_are_refused(name: str) -> None:
    huge = 10**5000
    value = {"stop_token_ids": [huge], "prompt": [huge], "logit_bias": {huge: 1}}.get(name, huge)
    assert refusal_of({"prompt": "a", name: value}).param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {}),
        ("store", True),
        ("prediction", {}),
        ("reasoning_effort", "low"),
        ("parallel_tool_calls", False),
        ("messages", []),
        ("messages", "hello"),
    ],
)
def test_refused_by_name_in_a_chat(name: str, value: Any) -> None:
    assert refusal_of({"messages": HELLO, name: value}).param == name


@pytest.mark.parametrize(("name", "values"), CHAT_NO_OPS.items())
def test_values_that_ask_for_nothing_are_accepted(name: str, values: tuple[object, ...]) -> None:
    for value in (None, *values):
        assert chat(**{"seed": 1, name: value}) == chat(seed=1)


def test_false_is_not_zero() -> None:
    assert refusal_of({"prompt": "a", "echo": 0}).param == "echo"


def test_an_unknown_parameter_is_named_with_its_nearest() -> None:
    refusal = refusal_of({"prompt": "a", "temprature": 1})
    assert refusal.param == "temprature"
    assert "'temperature'" in refusal.message


def test_an_unknown_parameter_of_a_million_letters_is_refused_in_few() -> None:
    refusal = refusal_of({"prompt": "a", "\ud800" * 1_000_000: 1})
    assert len(refusal.message.encode()) < 2_000


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "tool", "content": "a"}, "messages[0].role"),
        ({"role": "robot", "content": "a"}, "messages[0].role"),
        ({"content": "a"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": "a", "name": "bob"}, "messages[0].name"),
        ({"role": "user", "content": "a", "extra": 1}, "messages[0].extra"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"text": "a"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "x": 1}]}, "messages[0].content[0].x"),
        ({"role": "user", "content": ["a"]}, "messages[0].content[0]"),
    ],
)
def test_a_message_is_refused_by_place(message: dict[str, Any], place: str) -> None:
    assert refusal_of({"messages": [message]}).param == place


def test_text_parts_are_joined_and_developer_speaks_as_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = parse_chat({"messages": [{"role": "developer", "content": parts}]}).messages
    assert (message.role, message.content) == ("system", "a\nb")


@pytest.mark.parametrize("body", [None, [], "a", 1, True])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(InvalidRequest):
        parse_completion(body)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*CompletionBody.__struct_fields__, *COMPLETION_NO_OPS})) | st.text(),
        JSON_VALUES,
        max_size=4,
    )
)
def test_any_completion_body_is_a_call_or_an_invalid_request(body: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_completion({"prompt": "a", **body}), CompletionCall)
    except InvalidRequest as refusal:
        msgspec.json.encode(refusal.info)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(sorted({*ChatBody.__struct_fields__, *CHAT_NO_OPS})) | st.text(), JSON_VALUES, max_size=4
    ),
    st.lists(
        st.dictionaries(st.sampled_from(["role", "content", "name"]) | st.text(), JSON_VALUES, max_size=3)
        | st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": JSON_VALUES}),
        max_size=3,
    ),
)
def test_any_chat_body_is_a_call_or_an_invalid_request(body: dict[str, Any], messages: list[Any]) -> None:
    try:
        assert isinstance(parse_chat({"messages": messages, **body}), ChatCall)
    except InvalidRequest as refusal:
        msgspec.json.encode(refusal.info)
