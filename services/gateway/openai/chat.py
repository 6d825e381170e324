"""POST /v1/chat/completions: a conversation in, the assistant's messages out, whole or streamed.

Knows the endpoint's own fields; `params.py` reads the call, `requests.py` checks it, `answers.py` answers it.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from services.gateway.generation import Delta
from services.gateway.openai.answers import Answerer
from services.gateway.openai.body import BodyReader
from services.gateway.openai.logprobs import ChatLogprobs, TokenTexts, chat_logprobs
from services.gateway.openai.params import parse_chat
from services.gateway.openai.request_id import request_id_of
from services.gateway.requests import RequestBuilder
from shared.core import FinishReason


class AssistantMessage(msgspec.Struct, frozen=True):
    content: str
    role: str = "assistant"
    refusal: str | None = None


class MessageDelta(msgspec.Struct, frozen=True):
    """A piece of the message; the role is in the first only."""

    content: str
    role: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a whole answer. `stop_reason` is the stop string that ended it."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | UnsetType = UNSET


class ChatPiece(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of a chunk."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | UnsetType = UNSET


class ChatFormat:
    """The choices of this endpoint; with log-probabilities if the call asked for them."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, texts: TokenTexts, *, logprobs: bool) -> None:
        self._texts = texts
        self._logprobs = logprobs

    def whole(self, index: int, delta: Delta) -> ChatChoice:
        return ChatChoice(
            index=index,
            message=AssistantMessage(delta.text),
            logprobs=self._logprobs_of(delta),
            finish_reason=delta.finish,
            stop_reason=UNSET if delta.stop_match is None else delta.stop_match,
        )

    def piece(self, index: int, delta: Delta, *, first: bool, text_offset: int) -> ChatPiece:  # noqa: ARG002
        return ChatPiece(
            index=index,
            delta=MessageDelta(delta.text, "assistant" if first else UNSET),
            logprobs=self._logprobs_of(delta),
            finish_reason=delta.finish,
            stop_reason=UNSET if delta.stop_match is None else delta.stop_match,
        )

    def _logprobs_of(self, delta: Delta) -> ChatLogprobs | None:
        return chat_logprobs(delta.tokens, self._texts) if self._logprobs else None


class ChatCompletions:
    """The route."""

    def __init__(self, bodies: BodyReader, builder: RequestBuilder, answerer: Answerer, texts: TokenTexts) -> None:
        self._bodies = bodies
        self._builder = builder
        self._answerer = answerer
        self._texts = texts

    async def post(self, request: web.Request) -> web.StreamResponse:
        call = await self._bodies.read(request, parse_chat)
        requests = await self._builder.chat(call, request_id=request_id_of(request))
        form = ChatFormat(self._texts, logprobs=call.sampling.logprobs is not None)
        return await self._answerer.answer(request, call, requests, form)
