"""POST /tokenize and /detokenize: a prompt's token ids, and back, with bodies like vLLM's.

Knows the two bodies; `requests.py` makes the ids the very way a completion or a chat would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from services.gateway.openai.body import BodyReader
from services.gateway.openai.params import parse_chat
from services.gateway.requests import RequestBuilder
from shared.errors import InvalidRequest

Body = TypeVar("Body", bound=msgspec.Struct)


class Decoder(Protocol):
    """Token ids to text; a `shared.text` tokenizer is one."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


class Tokenized(msgspec.Struct, frozen=True):
    count: int
    max_model_len: int
    tokens: tuple[int, ...]


class Detokenized(msgspec.Struct, frozen=True):
    prompt: str


class _PromptBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    prompt: str
    model: str | None = None
    add_special_tokens: bool = True


class _MessagesBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    messages: list[Any]
    model: str | None = None
    add_generation_prompt: bool = True


class _TokensBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    tokens: list[int]
    model: str | None = None


class Tokenize:
    """The two routes."""

    def __init__(self, bodies: BodyReader, builder: RequestBuilder, decoder: Decoder) -> None:
        self._bodies = bodies
        self._builder = builder
        self._decoder = decoder

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await self._bodies.read(request, _prompt_or_messages)
        self._builder.check_model(body.model)
        if isinstance(body, _PromptBody):
            ids = await self._builder.prompt_ids(body.prompt, add_special_tokens=body.add_special_tokens)
        else:
            chat = parse_chat({"messages": body.messages})
            ids = await self._builder.chat_ids(chat.messages, add_generation_prompt=body.add_generation_prompt)
        return _json(Tokenized(len(ids), self._builder.model.context_tokens, ids))

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await self._bodies.read(request, lambda given: _typed(given, _TokensBody))
        self._builder.check_model(body.model)
        self._builder.check_ids(body.tokens, param="tokens")
        return _json(Detokenized(self._decoder.decode(body.tokens, skip_special_tokens=False)))


def _prompt_or_messages(body: Mapping[str, Any]) -> _PromptBody | _MessagesBody:
    if ("prompt" in body) == ("messages" in body):
        raise InvalidRequest("give either prompt or messages", param="prompt")
    return _typed(body, _PromptBody) if "prompt" in body else _typed(body, _MessagesBody)


def _typed(body: Mapping[str, Any], kind: type[Body]) -> Body:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
