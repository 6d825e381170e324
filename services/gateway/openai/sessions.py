"""GET /v1/sessions/{id}/stream: the rest of a resumable answer; DELETE /v1/sessions/{id}: its end.

Knows how a client says what it has; `answers.py` writes the stream. Who knows a session's id may read and end it.
"""

from __future__ import annotations

from aiohttp import web

from services.gateway.generation import GenerationRequest, Generator
from services.gateway.openai.answers import Answerer
from services.gateway.openai.chat import ChatFormat
from services.gateway.openai.chunks import ENDED
from services.gateway.openai.completions import CompletionFormat
from services.gateway.openai.formats import Format
from services.gateway.openai.logprobs import TokenTexts
from shared.errors import InvalidRequest

LAST_EVENT_ID = "Last-Event-ID"
AFTER = "after"
AFTER_DIGITS = 10


class SessionRoutes:
    """The routes."""

    def __init__(self, generator: Generator, answerer: Answerer, texts: TokenTexts) -> None:
        self._generator = generator
        self._answerer = answerer
        self._texts = texts

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """What comes after `Last-Event-ID`, which a browser sends by itself, or else after `?after=`."""
        had = request.headers.get(LAST_EVENT_ID) or request.query.get(AFTER, "0")
        if had == ENDED:
            # The one answer that keeps an EventSource from connecting again.
            return web.Response(status=web.HTTPNoContent.status_code)
        resumed = await self._generator.resume(request.match_info["id"], _tokens(had))
        return await self._answerer.resume(request, resumed, self._format(resumed.request))

    async def end(self, request: web.Request) -> web.Response:
        await self._generator.end(request.match_info["id"])
        return web.Response(status=web.HTTPNoContent.status_code)

    def _format(self, request: GenerationRequest) -> Format:
        logprobs = request.sampling.logprobs is not None
        if request.rendering.chat:
            return ChatFormat(self._texts, logprobs=logprobs)
        return CompletionFormat(self._texts, logprobs=logprobs)


def _tokens(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) <= AFTER_DIGITS):
        raise InvalidRequest(f"{AFTER} must be a number of tokens, or {ENDED}", param=AFTER)
    return int(given)
