"""One sequence from its parameters to its last event.

Knows the generator and events, not where they go: `put` of its owner takes them there. Both streaming doors run it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from services.gateway.generation import Generation, Generator
from services.gateway.requests import RequestBuilder
from services.gateway.sequence.events import SequenceEvents, failed
from services.gateway.sequence.request import sequence_request
from services.gateway.sequence.scope import CancelScope
from shared.core import FinishReason
from shared.errors import BatonError, InvalidRequest
from shared.protocol.from_client import Resume
from shared.protocol.to_client import Event, Failed, Finished, Usage

logger = logging.getLogger(__name__)

Put = Callable[[Event], Awaitable[None]]


class SequenceRun:
    """Puts Started, Deltas and exactly one Finished or Failed, in this order; the first two may be missing.

    `put` may wait, which slows the generation down. What `put` of the last event raises is raised by `run`.
    """

    def __init__(self, generator: Generator, builder: RequestBuilder, put: Put, *, request_id: str) -> None:
        self._generator = generator
        self._builder = builder
        self._put = put
        self._request_id = request_id
        self._scope = CancelScope()
        self._events: SequenceEvents | None = None
        self._finished: Finished | None = None
        self._unwanted = False

    def cancel(self) -> None:
        """Its client wants no more: end it with `finish_reason` cancelled, unless it ends by itself before that."""
        self._unwanted = True
        self._scope.cancel()

    def leave(self) -> None:
        """Its client is gone: end as `cancel` does, but what is resumable may be resumed."""
        self._scope.cancel()

    async def run(self, params: dict[str, Any], *, whole: bool = False, deadline_s: float | None = None) -> None:
        """`whole` puts all text into Finished; `deadline_s` shortens the gateway's own deadline."""
        await self._to_the_end(self._generate(params, whole, deadline_s))

    async def resume(self, asked: Resume) -> None:
        """The rest of a session, as `run` gives the whole of one."""
        await self._to_the_end(self._go_on(asked))

    async def _to_the_end(self, generating: Coroutine[Any, Any, None]) -> None:
        failure: Failed | None = None
        try:
            async with self._scope:
                await generating
        except BatonError as error:
            failure = failed(error)
        except Exception:  # the sequence's boundary: its client must learn of the end
            logger.exception("request %s failed", self._request_id)
            failure = failed(BatonError("internal error"))
        await self._put(self._finished or failure or self._cancelled())

    async def _generate(self, params: dict[str, Any], whole: bool, deadline_s: float | None) -> None:
        request = await sequence_request(self._builder, params, request_id=self._request_id)
        if deadline_s is not None:
            request = msgspec.structs.replace(request, deadline_s=min(deadline_s, request.deadline_s))
        if request.resumable and whole:
            raise InvalidRequest("resumable needs stream to be true", param="resumable")
        self._events = SequenceEvents(request, self._builder.model.name, whole=whole)
        await self._iterate(self._generator.generate(request), self._events)

    async def _go_on(self, asked: Resume) -> None:
        resumed = await self._generator.resume(asked.session, asked.after)
        self._events = SequenceEvents(resumed.request, self._builder.model.name)
        await self._iterate(resumed.running, self._events)

    async def _iterate(self, running: AbstractAsyncContextManager[Generation], events: SequenceEvents) -> None:
        async with running as generation:
            try:
                await self._say(generation, events)
            finally:
                if self._unwanted:
                    generation.cancel()
        if self._finished is None and not self._scope.cancelled:
            raise BatonError("the generation ended without a finish")

    async def _say(self, generation: Generation, events: SequenceEvents) -> None:
        await self._put(events.started(generation.id))
        async for delta in generation:
            if self._scope.cancelled:  # deltas that were ready leave the scope no moment to act in
                return
            event = events.delta(delta)
            if event is not None:
                await self._put(event)
            if delta.finish is not None:
                self._finished = events.finished(delta.finish, delta)

    def _cancelled(self) -> Finished:
        if self._events is None:
            return Finished(finish_reason=FinishReason.CANCELLED, usage=Usage(0, 0, 0))
        return self._events.finished(FinishReason.CANCELLED)
