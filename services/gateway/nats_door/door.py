"""Answers `baton.v1.generate`: any gateway takes a request, and streams into the requester's inbox.

Knows subjects and who listens, not what a generation is. The gateway's composition starts, drains and closes it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid

import msgspec
from nats.aio.msg import Msg

from services.gateway.generation import Generator
from services.gateway.nats_door.answer import Answer, WholeAnswer
from services.gateway.nats_door.inbox import answerable, beside_inbox
from services.gateway.nats_door.settings import NatsDoorSettings
from services.gateway.requests import RequestBuilder
from services.gateway.sequence.events import failed
from services.gateway.sequence.run import SequenceRun
from shared.bus.connection import Bus, Listening
from shared.errors import BatonError, Overloaded, PayloadTooLarge
from shared.protocol.from_client import NatsGenerate, nats_generate
from shared.protocol.subjects import CANCEL_GENERATION, GATEWAY_QUEUE, GENERATE, cancel_generation
from shared.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

STATUS_HEADER = "Status"
NO_RESPONDERS = "503"


class _Active(msgspec.Struct):
    run: SequenceRun
    answer: Answer


class NatsDoor:
    """`start` it, then `drain` and `close` it, all before the bus is closed."""

    def __init__(
        self, bus: Bus, generator: Generator, builder: RequestBuilder, settings: NatsDoorSettings | None = None
    ) -> None:
        self._bus = bus
        self._generator = generator
        self._builder = builder
        self._settings = settings or NatsDoorSettings()
        self._requests = Tasks("nats requests")
        self._probing = Tasks("nats probing")
        self._taking: Listening | None = None
        self._listening: list[Listening] = []
        self._no_responders = bus.inbox()
        self._active: dict[str, _Active] = {}

    def __len__(self) -> int:
        """Requests being answered."""
        return len(self._active)

    async def start(self) -> None:
        """Take requests from now on."""
        self._listening = [
            await self._bus.listen(CANCEL_GENERATION, self._cancelled),
            await self._bus.listen_raw(f"{self._no_responders}.>", self._unheard),
        ]
        self._taking = await self._bus.listen_raw(GENERATE, self._requested, queue=GATEWAY_QUEUE)
        self._probing.start(self._probe_for_ever(), name="probe")

    async def drain(self) -> None:
        """Leave new requests to other gateways; wait until those that were taken have been answered."""
        if self._taking is not None:
            await self._taking.drain()
        await self._requests.drain()

    async def close(self) -> None:
        """Cancel what still runs. Idempotent."""
        for listening in [*self._listening, *([self._taking] if self._taking else [])]:
            await listening.close()
        await self._requests.close()
        await self._probing.close()

    def _requested(self, msg: Msg) -> None:
        if not answerable(msg.reply):
            logger.warning("a request on %s with no inbox to answer to (%r): dropped", GENERATE, msg.reply)
            return
        self._requests.start(self._respond(msg.reply, msg.data), name="request")

    def _cancelled(self, subject: str, _data: bytes) -> None:
        active = self._active.get(subject.rsplit(".", 1)[-1])
        if active is not None:
            active.run.cancel()

    def _unheard(self, msg: Msg) -> None:
        if (msg.headers or {}).get(STATUS_HEADER) != NO_RESPONDERS:
            return
        token, _, probe = msg.subject.removeprefix(f"{self._no_responders}.").partition(".")
        active = self._active.get(token)
        if active is not None and active.answer.is_gone(probe):
            logger.info("request %s: nobody listens to its inbox any more", token)
            active.run.leave()

    async def _respond(self, inbox: str, data: bytes) -> None:
        """One request from its bytes to its last message."""
        token = uuid.uuid4().hex
        try:
            try:
                request = self._admit(data)
            except BatonError as error:
                await self._answer(inbox, token, stream=True).put(failed(error))
            else:
                await self._generate(inbox, token, request)
        except BatonError as error:
            logger.warning("request %s: its answer could not be published: %s", token, error)

    def _admit(self, data: bytes) -> NatsGenerate:
        if len(self._active) >= self._settings.request_limit:
            raise Overloaded(f"{self._settings.request_limit} requests are being answered", retry_after_ms=1000)
        return nats_generate(data)

    async def _generate(self, inbox: str, token: str, request: NatsGenerate) -> None:
        answer = self._answer(inbox, token, stream=request.stream)
        run = SequenceRun(self._generator, self._builder, answer.put, request_id=token)
        self._active[token] = _Active(run, answer)
        try:
            await answer.begin()
            if request.resume is not None:
                await run.resume(request.resume)
            else:
                await run.run(request.params, whole=not request.stream, deadline_s=request.deadline_s)
        except PayloadTooLarge as error:
            await answer.put(failed(error))
        finally:
            del self._active[token]

    def _answer(self, inbox: str, token: str, *, stream: bool) -> Answer:
        no_responders, cancel_subject = f"{self._no_responders}.{token}", cancel_generation(token)
        if stream:
            return Answer(self._bus, inbox, no_responders, cancel_subject)
        return WholeAnswer(self._bus, inbox, no_responders, cancel_subject, beside=beside_inbox(inbox, token))

    async def _probe_for_ever(self) -> None:
        interval_s = self._settings.probe_interval_s
        while True:
            await asyncio.sleep(interval_s / 2)
            for active in list(self._active.values()):
                try:
                    await active.answer.probe(interval_s)
                except BatonError as error:
                    logger.debug("probe: %s", error)
