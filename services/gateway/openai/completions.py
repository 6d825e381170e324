"""POST /v1/completions: prompts in, choices with text out, whole or streamed.

Knows the endpoint's own fields; `params.py` reads the call, `requests.py` checks it, `answers.py` answers it.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from services.gateway.generation import Delta
from services.gateway.openai.answers import Answerer
from services.gateway.openai.body import BodyReader
from services.gateway.openai.logprobs import CompletionLogprobs, TokenTexts, completion_logprobs
from services.gateway.openai.params import parse_completion
from services.gateway.openai.request_id import request_id_of
from services.gateway.requests import RequestBuilder
from shared.core import FinishReason


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice, whole or a piece. `stop_reason` is the stop string that ended it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | UnsetType = UNSET


class CompletionFormat:
    """The choices of this endpoint; with log-probabilities if the call asked for them."""

    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, texts: TokenTexts, *, logprobs: bool) -> None:
        self._texts = texts
        self._logprobs = logprobs

    def whole(self, index: int, delta: Delta) -> CompletionChoice:
        return self.piece(index, delta, first=True, text_offset=0)

    def piece(self, index: int, delta: Delta, *, first: bool, text_offset: int) -> CompletionChoice:  # noqa: ARG002
        return CompletionChoice(
            index=index,
            text=delta.text,
            logprobs=completion_logprobs(delta.tokens, self._texts, text_offset) if self._logprobs else None,
            finish_reason=delta.finish,
            stop_reason=UNSET if delta.stop_match is None else delta.stop_match,
        )


class Completions:
    """The route."""

    def __init__(self, bodies: BodyReader, builder: RequestBuilder, answerer: Answerer, texts: TokenTexts) -> None:
        self._bodies = bodies
        self._builder = builder
        self._answerer = answerer
        self._texts = texts

    async def post(self, request: web.Request) -> web.StreamResponse:
        call = await self._bodies.read(request, parse_completion)
        requests = await self._builder.completion(call, request_id=request_id_of(request))
        form = CompletionFormat(self._texts, logprobs=call.sampling.logprobs is not None)
        return await self._answerer.answer(request, call, requests, form)
