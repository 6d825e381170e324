"""The events of one streamed answer: deltas in, chunks as JSON out.

Knows the envelope around an endpoint's choices; a `Format` knows the choices. `answers.py` sends what it makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET, UnsetType

from services.gateway.generation import Delta, GenerationRequest
from services.gateway.openai.choices import ChoiceDelta
from services.gateway.openai.formats import Format
from services.gateway.openai.schema import Envelope, Usage
from services.gateway.openai.sse import DONE, ServerEvent
from services.gateway.openai.tally import Tally

ENDED = "end"
_ENCODER = msgspec.json.Encoder()


class Chunks:
    """Of all choices of one call, `n` to each prompt. The events of a resumable answer have ids.

    An id says how many tokens of the answer have come, with that event; `ENDED` is that of the last event.
    """

    def __init__(self, head: Envelope, requests: Sequence[GenerationRequest], n: int, form: Format) -> None:
        self._head = head
        self._form = form
        self._tally = Tally(requests, n)
        self._rendering = requests[0].rendering
        self.resumable = requests[0].resumable
        self._logprobs = requests[0].sampling.logprobs is not None
        self._said = [False] * len(requests)
        self._text_chars = [0] * len(requests)

    def of(self, taken: Sequence[ChoiceDelta]) -> list[ServerEvent]:
        """An event for each delta that says something."""
        return [event for item in taken if (event := self._event(item.index, item.delta)) is not None]

    def last(self) -> Iterator[ServerEvent]:
        """What follows the last choice's finish."""
        if self._rendering.include_usage:
            yield ServerEvent(
                _ENCODER.encode(
                    msgspec.structs.replace(self._head, usage=self._tally.usage(), baton=self._tally.baton())
                )
            )
        yield ServerEvent(DONE, ENDED if self.resumable else "")

    def _event(self, index: int, delta: Delta) -> ServerEvent | None:
        first, offset = not self._said[index], self._text_chars[index]
        self._tally.add(index, delta)
        self._text_chars[index] += sum(len(token.text) for token in delta.tokens)
        if delta.known:
            self._said[index] = True
        if delta.known or not self._says_something(delta):
            return None
        self._said[index] = True
        piece = self._form.piece(index, delta, first=first, text_offset=offset)
        usage = self._usage(index)
        data = _ENCODER.encode(msgspec.structs.replace(self._head, choices=(piece,), usage=usage))
        return ServerEvent(data, str(self._tally.tokens_of(index)) if self.resumable else "")

    def _says_something(self, delta: Delta) -> bool:
        """False while text is held back: it may become a stop string, or is half a character."""
        return bool(delta.text or delta.finish or self._logprobs or self._rendering.usage_in_chunks)

    def _usage(self, index: int) -> Usage | UnsetType | None:
        if self._rendering.usage_in_chunks:
            return self._tally.usage_of(index)
        return None if self._rendering.include_usage else UNSET
