"""One call's answer, whole or streamed: everything completions and chat have in common.

Knows deltas and how a stream is kept going; `chunks.py` knows its events, a `Format` the choices. The routes call
`Answerer.answer`, or `Answerer.resume` for the rest of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from services.gateway.generation import Delta, DeltaToken, GenerationRequest, Generator, Resumed
from services.gateway.openai.choices import Choices
from services.gateway.openai.chunks import Chunks
from services.gateway.openai.errors import as_baton_error, error_body, gone
from services.gateway.openai.formats import Format
from services.gateway.openai.params import Call
from services.gateway.openai.schema import Envelope
from services.gateway.openai.sse import EventStream, ServerEvent
from services.gateway.openai.tally import Tally
from shared.errors import InvalidRequest

SESSION_HEADER = "Baton-Session"
RESUMABLE_HEADERS_S = 0.5
_ENCODER = msgspec.json.Encoder()


class AnswerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`keep_alive_s`: a stream silent for so long gets its headers, if it has none, and a comment.

    `write_timeout_s`: a client that reads nothing for so long is cut off.
    """

    system_fingerprint: str
    keep_alive_s: float = 10.0
    write_timeout_s: float = 60.0


class Answerer:
    """Runs the generations of a call and answers its HTTP request with them."""

    def __init__(self, generator: Generator, model: str, settings: AnswerSettings) -> None:
        self._generator = generator
        self._model = model
        self._settings = settings

    async def answer(
        self, http: web.Request, call: Call, requests: Sequence[GenerationRequest], form: Format
    ) -> web.StreamResponse:
        """Errors before the first delta are raised; later ones end a stream as an event."""
        if call.resumable and not (call.stream and len(requests) == 1):
            raise InvalidRequest("resumable needs stream to be true, and one sequence", param="resumable")
        head = self._head(requests[0], form.chunk_object if call.stream else form.whole_object)
        async with Choices([self._generator.generate(request) for request in requests], head.id) as choices:
            if call.stream:
                events = self._events(http)
                try:
                    return await self._stream(http, events, choices, Chunks(head, requests, call.n, form))
                finally:
                    if not events.started:  # the client was never told the session's id
                        choices.cancel()
            return await _whole(choices, head, Tally(requests, call.n), form, len(requests))

    async def resume(self, http: web.Request, resumed: Resumed, form: Format) -> web.StreamResponse:
        """The rest of a resumable answer, as `answer` would have given it."""
        head = self._head(resumed.request, form.chunk_object)
        async with Choices([resumed.running], head.id) as choices:
            return await self._stream(http, self._events(http), choices, Chunks(head, [resumed.request], 1, form))

    def _events(self, http: web.Request) -> EventStream:
        return EventStream(http, write_timeout_s=self._settings.write_timeout_s)

    def _head(self, request: GenerationRequest, kind: str) -> Envelope:
        return Envelope(
            id=request.rendering.response_id,
            object=kind,
            created=request.rendering.created_unix_s,
            model=self._model,
            system_fingerprint=self._settings.system_fingerprint,
            choices=(),
        )

    async def _stream(
        self, http: web.Request, events: EventStream, choices: Choices, chunks: Chunks
    ) -> web.StreamResponse:
        try:
            while choices.running:
                # The headers name the session: without them there is nothing to resume.
                early = chunks.resumable and not events.started
                taken = await choices.take(RESUMABLE_HEADERS_S if early else self._settings.keep_alive_s)
                if early and choices.sessions:
                    events.response.headers[SESSION_HEADER] = choices.sessions[0]
                if taken:
                    await events.send(chunks.of(taken))
                elif choices.sessions:
                    await events.keep_alive()
            await events.send(chunks.last())
        except Exception as error:
            if not events.started or gone(http):
                raise
            await events.send([ServerEvent(error_body(as_baton_error(error, http)))])
        await events.close()
        return events.response


async def _whole(choices: Choices, head: Envelope, tally: Tally, form: Format, count: int) -> web.Response:
    gathered: list[list[Delta]] = [[] for _ in range(count)]
    while choices.running:
        for item in await choices.take():
            tally.add(item.index, item.delta)
            gathered[item.index].append(item.delta)
    answer = msgspec.structs.replace(
        head,
        choices=[form.whole(index, _joined(deltas)) for index, deltas in enumerate(gathered)],
        usage=tally.usage(),
        baton=tally.baton(),
    )
    return web.Response(body=_ENCODER.encode(answer), content_type="application/json")


def _joined(deltas: Sequence[Delta]) -> Delta:
    tokens: list[DeltaToken] = []
    for delta in deltas:
        tokens.extend(delta.tokens)
    last = deltas[-1]
    return Delta(
        text="".join(delta.text for delta in deltas),
        tokens=tuple(tokens),
        finish=last.finish,
        stop_match=last.stop_match,
    )
