"""OpenAI's request parameters, checked and in Baton's words: a parsed JSON body in, a typed call out.

Supported parameters are checked for type and range; known ones that are not supported, and unknown ones, are refused
by name, never ignored. Knows no model: `requests.py` checks calls against the one that is served. Every door calls
`parse_completion` or `parse_chat`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.gateway.openai.chat_messages import ChatMessage, read_messages
from services.gateway.openai.param_bodies import (
    CHAT_NO_OPS,
    CHAT_RANGES,
    COMPLETION_NO_OPS,
    COMPLETION_RANGES,
    LOGIT_BIAS_RANGE,
    TOKEN_ID_RANGE,
    ChatBody,
    CommonBody,
    CompletionBody,
    StreamOptions,
)
from services.gateway.openai.param_check import check_range, read_body, shown
from shared.core import SamplingParams
from shared.errors import InvalidRequest

COMPLETION_MAX_TOKENS = 16
STOP_LIMIT = 16
CACHE_SALT_LIMIT = 256
_SEED_BITS = 63
_TOKEN_ID_DIGITS = 10


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What both endpoints ask for. `model` None: whatever is served. `max_tokens` None: the rest of the context.

    `sampling.seed` is always set, at random where the client gave none. `user` and `metadata` are labels.
    A `resumable` one is kept when its client goes away.
    """

    model: str | None
    n: int
    max_tokens: int | None
    sampling: SamplingParams
    stop: tuple[str, ...]
    cache_salt: str
    stream: bool
    include_usage: bool
    continuous_usage_stats: bool
    resumable: bool
    user: str | None
    metadata: dict[str, str] | None


class CompletionCall(Call, frozen=True, kw_only=True):
    """Of `/v1/completions`: at least one prompt, none empty, each a text or token ids."""

    prompts: tuple[str | tuple[int, ...], ...]


class ChatCall(Call, frozen=True, kw_only=True):
    """Of `/v1/chat/completions`: at least one message."""

    messages: tuple[ChatMessage, ...]


def parse_completion(body: object) -> CompletionCall:
    """The call in a `/v1/completions` body. Raises InvalidRequest, with `param` naming what is wrong."""
    read = read_body(body, CompletionBody, ranges=COMPLETION_RANGES, no_ops=COMPLETION_NO_OPS)
    if read.best_of not in (None, read.n):
        raise InvalidRequest("best_of is not supported; leave it out or make it equal to n", param="best_of")
    prompts = _prompts(read.prompt)
    return CompletionCall(prompts=prompts, **_common(read, read.logprobs, default_max_tokens=COMPLETION_MAX_TOKENS))


def parse_chat(body: object) -> ChatCall:
    """The call in a `/v1/chat/completions` body. Raises InvalidRequest, with `param` naming what is wrong."""
    read = read_body(body, ChatBody, ranges=CHAT_RANGES, no_ops=CHAT_NO_OPS)
    if read.top_logprobs and not read.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    logprobs = (read.top_logprobs or 0) if read.logprobs else None
    return ChatCall(messages=read_messages(read.messages), **_common(read, logprobs, default_max_tokens=None))


def _common(read: CommonBody, logprobs: int | None, *, default_max_tokens: int | None) -> dict[str, Any]:
    """The fields of a `Call`."""
    if read.stream_options is not None and not read.stream:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
    options = read.stream_options or StreamOptions()
    return {
        "model": read.model,
        "n": read.n,
        "max_tokens": _max_tokens(read, default_max_tokens),
        "sampling": _sampling(read, logprobs),
        "stop": _stop(read.stop),
        "cache_salt": _cache_salt(read.cache_salt),
        "stream": read.stream,
        "include_usage": bool(options.include_usage),
        "continuous_usage_stats": bool(options.continuous_usage_stats),
        "resumable": read.resumable,
        "user": read.user,
        "metadata": read.metadata,
    }


def _sampling(read: CommonBody, logprobs: int | None) -> SamplingParams:
    for token_id in read.stop_token_ids:
        check_range("stop_token_ids", token_id, TOKEN_ID_RANGE)
    return SamplingParams(
        temperature=read.temperature,
        top_p=read.top_p,
        top_k=max(read.top_k, 0),
        min_p=read.min_p,
        seed=secrets.randbits(_SEED_BITS) if read.seed is None else read.seed,
        repetition_penalty=read.repetition_penalty,
        presence_penalty=read.presence_penalty,
        frequency_penalty=read.frequency_penalty,
        logit_bias=_logit_bias(read.logit_bias),
        logprobs=logprobs,
        min_tokens=read.min_tokens,
        ignore_eos=read.ignore_eos,
        stop_token_ids=tuple(read.stop_token_ids),
    )


def _max_tokens(read: CommonBody, default: int | None) -> int | None:
    older, newer = read.max_tokens, read.max_completion_tokens
    if older is not None and newer is not None and older != newer:
        raise InvalidRequest("max_tokens and max_completion_tokens contradict each other", param="max_tokens")
    given = newer if older is None else older
    return default if given is None else given


def _cache_salt(salt: str | None) -> str:
    if salt is not None and not (1 <= len(salt) <= CACHE_SALT_LIMIT and salt.isprintable()):
        raise InvalidRequest(f"cache_salt must have 1 to {CACHE_SALT_LIMIT} printable characters", param="cache_salt")
    return salt or ""


def _stop(stop: str | list[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(strings) > STOP_LIMIT:
        raise InvalidRequest(f"stop may hold up to {STOP_LIMIT} strings, not {len(strings)}", param="stop")
    if "" in strings:
        raise InvalidRequest("stop must not hold an empty string", param="stop")
    return strings


def _logit_bias(given: Mapping[str | int, float]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for key, bias in given.items():
        token_id = _token_id(key)
        check_range("logit_bias", bias, LOGIT_BIAS_RANGE)
        biases[token_id] = bias
    return biases


def _token_id(key: str | int) -> int:
    if isinstance(key, str):
        if not (key.isascii() and key.isdigit() and len(key) <= _TOKEN_ID_DIGITS):
            raise InvalidRequest(f"logit_bias keys must be token ids, not {shown(key)!r}", param="logit_bias")
        key = int(key)
    check_range("logit_bias", key, TOKEN_ID_RANGE)
    return key


def _prompts(prompt: str | list[str | int | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """One prompt, as text or ids, or a list of such prompts that are all texts or all ids."""
    if isinstance(prompt, str):
        return (_text_prompt(prompt),)
    texts = [item for item in prompt if isinstance(item, str)]
    ids = [item for item in prompt if isinstance(item, int)]
    lists = [item for item in prompt if isinstance(item, list)]
    if not prompt:
        raise InvalidRequest("prompt is empty", param="prompt")
    if len(prompt) not in (len(texts), len(ids), len(lists)):
        raise InvalidRequest("prompt must not mix texts, token ids and lists of token ids", param="prompt")
    if ids:
        return (_ids_prompt(ids),)
    return tuple(_text_prompt(text) for text in texts) or tuple(_ids_prompt(item) for item in lists)


def _text_prompt(text: str) -> str:
    if not text:
        raise InvalidRequest("prompt is empty", param="prompt")
    return text


def _ids_prompt(ids: Sequence[int]) -> tuple[int, ...]:
    if not ids:
        raise InvalidRequest("prompt is empty", param="prompt")
    for token_id in ids:
        check_range("prompt", token_id, TOKEN_ID_RANGE)
    return tuple(ids)
