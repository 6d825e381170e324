"""The request bodies of `/v1/completions` and `/v1/chat/completions`: names, types, ranges, and what is not supported.

Defaults are OpenAI's. Knows nothing of how a parameter is used; `params.py` does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from services.gateway.openai.param_check import Range

_LARGEST = 2**31 - 1


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Usage in the stream: once at the end, or with every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class CommonBody(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints take. `user`, `safety_identifier` and `metadata` label a request and change nothing.

    Two are Baton's own: the answer to a `resumable` request can be taken up again after a break; only requests of equal
    `cache_salt` share cached beginnings of prompts.
    """

    model: str | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int = 0
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[str | int, float] = {}
    ignore_eos: bool = False
    stop: str | list[str] = []
    stop_token_ids: list[int] = []
    cache_salt: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    resumable: bool = False
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None


class CompletionBody(CommonBody, frozen=True, kw_only=True):
    """Of `/v1/completions`. `prompt` is one text or token id list, or a list of either."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    best_of: int | None = None


class MessageBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message. The fields after `content` are known and must be empty: there are no tools and no audio here."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: object = None
    tool_calls: object = None
    tool_call_id: object = None
    function_call: object = None
    refusal: object = None
    audio: object = None


class ChatBody(CommonBody, frozen=True, kw_only=True):
    """Of `/v1/chat/completions`."""

    messages: list[MessageBody]
    logprobs: bool = False
    top_logprobs: int | None = None


_COMMON_RANGES = {
    "max_tokens": Range(1, _LARGEST),
    "max_completion_tokens": Range(1, _LARGEST),
    "min_tokens": Range(0, _LARGEST),
    "n": Range(1, 16),
    "temperature": Range(0, 2),
    "top_p": Range(0, 1),
    "top_k": Range(-1, _LARGEST),
    "min_p": Range(0, 1),
    "seed": Range(-(2**63), 2**63 - 1),
    "repetition_penalty": Range(0.001, 1000),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
}
COMPLETION_RANGES = _COMMON_RANGES | {"logprobs": Range(0, 20), "best_of": Range(1, 16)}
CHAT_RANGES = _COMMON_RANGES | {"top_logprobs": Range(0, 20)}
TOKEN_ID_RANGE = Range(0, _LARGEST)
LOGIT_BIAS_RANGE = Range(-100, 100)

_COMMON_NO_OPS: dict[str, tuple[object, ...]] = {"service_tier": ("auto", "default")}
COMPLETION_NO_OPS = _COMMON_NO_OPS | {"echo": (False,), "suffix": ("",)}
CHAT_NO_OPS = _COMMON_NO_OPS | {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}
