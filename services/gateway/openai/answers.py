"""One call's answer, whole or streamed: everything completions and chat have in common.

Knows deltas, events and the envelope around an endpoint's choices; a `Format` knows the choices. The two routes call
`Answerer.answer`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from services.gateway.generation import Delta, DeltaToken, GenerationRequest, Generator
from services.gateway.openai.choices import ChoiceDelta, Choices
from services.gateway.openai.errors import as_baton_error, error_body, gone
from services.gateway.openai.params import Call
from services.gateway.openai.request_id import request_id_of
from services.gateway.openai.schema import Envelope, Usage
from services.gateway.openai.sse import DONE, EventStream
from services.gateway.openai.tally import Tally

_ENCODER = msgspec.json.Encoder()


class AnswerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`keep_alive_s`: a stream silent for so long gets its headers, if it has none, and a comment.

    `write_timeout_s`: a client that reads nothing for so long is cut off.
    """

    system_fingerprint: str
    keep_alive_s: float = 10.0
    write_timeout_s: float = 60.0


class Format(Protocol):
    """How one endpoint says a choice."""

    id_prefix: str
    whole_object: str
    chunk_object: str

    def whole(self, index: int, delta: Delta) -> msgspec.Struct:
        """A choice of a whole answer; `delta` is all of it."""

    def piece(self, index: int, delta: Delta, *, first: bool, text_offset: int) -> msgspec.Struct:
        """A choice of a chunk; `text_offset` counts the characters of the tokens before it."""


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
        head = Envelope(
            id=f"{form.id_prefix}-{request_id_of(http)}",
            object=form.chunk_object if call.stream else form.whole_object,
            created=int(time.time()),
            model=self._model,
            system_fingerprint=self._settings.system_fingerprint,
            choices=(),
        )
        async with Choices(self._generator, requests) as choices:
            if call.stream:
                chunks = _Chunks(head, call, Tally(requests, call.n), form, len(requests))
                return await self._stream(http, choices, chunks)
            return await _whole(choices, head, Tally(requests, call.n), form, len(requests))

    async def _stream(self, http: web.Request, choices: Choices, chunks: _Chunks) -> web.StreamResponse:
        events = EventStream(http, write_timeout_s=self._settings.write_timeout_s)
        try:
            while choices.running:
                taken = await choices.take(self._settings.keep_alive_s)
                if taken:
                    await events.send(chunks.of(taken))
                else:
                    await events.keep_alive()
            await events.send(chunks.last())
        except Exception as error:
            if not events.started or gone(http):
                raise
            await events.send([error_body(as_baton_error(error, http))])
        await events.close()
        return events.response


class _Chunks:
    """The events of one streamed answer."""

    def __init__(self, head: Envelope, call: Call, tally: Tally, form: Format, choices: int) -> None:
        self._head = head
        self._call = call
        self._tally = tally
        self._form = form
        self._logprobs = call.sampling.logprobs is not None
        self._said = [False] * choices
        self._text_chars = [0] * choices

    def of(self, taken: Sequence[ChoiceDelta]) -> list[bytes]:
        """An event for each delta that says something."""
        return [event for item in taken if (event := self._event(item.index, item.delta)) is not None]

    def last(self) -> Iterator[bytes]:
        """What follows the last choice's finish."""
        if self._call.include_usage:
            yield _ENCODER.encode(
                msgspec.structs.replace(self._head, usage=self._tally.usage(), baton=self._tally.baton())
            )
        yield DONE

    def _event(self, index: int, delta: Delta) -> bytes | None:
        first, offset = not self._said[index], self._text_chars[index]
        self._tally.add(index, delta)
        self._text_chars[index] += sum(len(token.text) for token in delta.tokens)
        if not self._says_something(delta):
            return None
        self._said[index] = True
        piece = self._form.piece(index, delta, first=first, text_offset=offset)
        return _ENCODER.encode(msgspec.structs.replace(self._head, choices=(piece,), usage=self._usage(index)))

    def _says_something(self, delta: Delta) -> bool:
        """False while text is held back: it may become a stop string, or is half a character."""
        return bool(delta.text or delta.finish or self._logprobs or self._call.continuous_usage_stats)

    def _usage(self, index: int) -> Usage | UnsetType | None:
        if self._call.continuous_usage_stats:
            return self._tally.usage_of(index)
        return None if self._call.include_usage else UNSET


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
