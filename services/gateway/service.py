"""The gateway service: the doors in front, the sessions behind them, the bus below."""

from __future__ import annotations

import asyncio
import contextlib
import time
from importlib.metadata import version

from aiohttp import web
from prometheus_client import REGISTRY

from services.gateway.fleet import GatewayFleet
from services.gateway.generation import ServedModel
from services.gateway.http import HttpSettings, make_app, runner
from services.gateway.nats_door.door import NatsDoor
from services.gateway.requests import RequestBuilder
from services.gateway.sessions.registry import KeepSettings, SessionLinks, Sessions
from services.gateway.settings import GatewaySettings
from services.gateway.websocket.door import WebSocketDoor
from services.gateway.websocket.settings import SocketSettings
from shared.bus.connection import Bus
from shared.bus.memory_stream import StreamLimits
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.errors import ConfigError, Draining
from shared.models.facts import read_model_facts
from shared.models.store import ModelFolder
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_gateway import HeldSessions
from shared.runtime.beats import Heartbeat, new_boot
from shared.runtime.hearing import redial_when_deaf
from shared.runtime.tasks import Tasks
from shared.text.chat_template import ChatTemplate
from shared.text.tokenizer import Tokenizer

DISTRIBUTION = "baton-serve"
FAREWELL_S = 1.0


class GatewayService:
    """One gateway for one model. `settings.id` must be set; `model` is the folder with its tokenizer."""

    def __init__(self, settings: GatewaySettings, model: ModelFolder, tasks: Tasks) -> None:
        self._settings = settings
        self._id = subjects.check_name(settings.id)
        self._model = model
        self._tasks = tasks
        self._boot = new_boot()
        self._state = WorkerState.STARTING
        self._fleet = GatewayFleet(model.name, settings.beat_interval_s)
        self._bus: Bus | None = None
        self._http: web.AppRunner | None = None

    async def start(self) -> None:
        """Connect, then open the doors. Raises ConfigError when the HTTP address cannot be had."""
        settings = self._settings
        tokenizer = Tokenizer.load(self._model.path)
        builder = self._builder(tokenizer)
        self._bus = bus = await Bus.connect(
            settings.nats,
            name=f"gateway {self._id}",
            spawn=self._tasks.start,
            on_disconnect=self._fleet.liveness.suspend,
            on_reconnect=self._reconnected,
        )
        self._outbox = Outbox(bus)
        # Before anything may fail: `stop` says goodbye with it.
        self._heartbeat = Heartbeat(bus, self._beat, settings.beat_interval_s)
        self._sessions = Sessions(
            SessionLinks(bus=bus, outbox=self._outbox, fleet=self._fleet.liveness, tasks=self._tasks),
            tokenizer,
            gateway=self._id,
            model=self._model.name,
            session_limit=settings.session_limit,
            attempts=settings.attempts,
            quarantine_s=settings.quarantine_s,
            keep=_keep(settings),
        )
        sockets = SocketSettings(frame_limit_bytes=settings.body_limit_bytes, allowed_origins=settings.allowed_origins)
        self._websockets = WebSocketDoor(self._sessions, builder, sockets)
        self._nats_door = NatsDoor(bus, self._sessions, builder)
        await self._start_bus(bus)
        self._http = await self._open_http(builder, tokenizer)
        await self._nats_door.start()
        await bus.flush()
        self._state = WorkerState.READY

    async def drain(self) -> None:
        """Refuse new requests; return when those that run have been answered."""
        self._state = WorkerState.DRAINING
        self._fleet.draining = True
        if self._http is not None:
            parts = {
                "nats": self._nats_door.drain,
                "websockets": self._websockets.drain,
                "sessions": self._sessions.drain,
            }
            await asyncio.gather(*(self._tasks.start(drain(), name=f"drain {part}") for part, drain in parts.items()))

    def stuck(self) -> str:
        """Never, as long as its event loop runs."""
        return ""

    async def hand_over(self) -> None:
        """End what still runs with an error that says to ask again, and give the doors `FAREWELL_S` to say so."""
        if self._http is None:
            return
        self._sessions.end_all(Draining("this gateway is shutting down", retry_after_ms=1000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self.drain()
        await self._sessions.drain()

    async def stop(self) -> None:
        """Close the doors, which cancels what still runs, and disconnect. Idempotent."""
        self._state = WorkerState.STOPPED
        if self._http is not None:
            await self._websockets.close()
            await self._nats_door.close()
            await self._http.cleanup()
            await self._sessions.close()
        if self._bus is not None:
            if self._bus.connected:
                await self._heartbeat.send()
                await self._outbox.drain()
            await self._bus.close()
        await self._tasks.close()

    @property
    def port(self) -> int:
        """The HTTP port, once started."""
        if self._http is None:
            raise ConfigError("the gateway has not started")
        return int(self._http.addresses[0][1])

    async def _start_bus(self, bus: Bus) -> None:
        await bus.listen(subjects.BEATS, self._fleet.hear)
        await bus.listen(subjects.QUARANTINE, self._sessions.suspicion.on_notice)
        await bus.listen(subjects.tokens(self._id), self._sessions.on_tokens)
        await bus.listen(subjects.taken(self._id), self._sessions.on_taken)
        await bus.listen(subjects.TAKEN_OVER, self._sessions.on_taken_over)
        await bus.serve(subjects.held(self._id), HeldSessions, self._sessions.on_held)
        self._tasks.start(self._outbox.run(), name="outbox")
        self._tasks.start(self._sessions.watch(), name="watch")
        self._tasks.start(self._sessions.write_journal(), name="journal")
        self._tasks.start(self._heartbeat.run(), name="heartbeat")
        hearing = redial_when_deaf(bus, self._fleet.liveness, self._settings.beat_interval_s)
        self._tasks.start(hearing, name="hearing")

    def _reconnected(self) -> None:
        self._fleet.liveness.resume()
        self._sessions.reconnected()

    def _builder(self, tokenizer: Tokenizer) -> RequestBuilder:
        facts = read_model_facts(self._model.path)
        served = ServedModel(
            name=self._model.name,
            vocab_size=facts.vocab_size,
            context_tokens=facts.context_tokens,
            created_unix_s=int(time.time()),
        )
        template = ChatTemplate.load(self._model.path, self._model.name)
        return RequestBuilder(served, tokenizer, template, deadline_s=self._settings.request_timeout_s)

    async def _open_http(self, builder: RequestBuilder, tokenizer: Tokenizer) -> web.AppRunner:
        installed = version(DISTRIBUTION)
        app = make_app(
            self._sessions,
            builder,
            tokenizer,
            fleet=self._fleet,
            registry=REGISTRY,
            settings=HttpSettings(
                version=installed,
                system_fingerprint=f"baton-{installed}",
                body_limit_bytes=self._settings.body_limit_bytes,
                bodies_limit_bytes=self._settings.bodies_limit_bytes,
            ),
        )
        self._websockets.register(app)
        http = runner(app)
        await http.setup()
        try:
            await web.TCPSite(http, self._settings.host, self._settings.port).start()
        except OSError as error:
            await http.cleanup()
            raise ConfigError(
                f"cannot listen on {self._settings.host}:{self._settings.port}: {error.strerror}", param="port"
            ) from error
        return http

    def _beat(self) -> Beat:
        return Beat(
            worker=self._id,
            role=Role.GATEWAY,
            boot=self._boot,
            state=self._state,
            interval_ms=round(self._settings.beat_interval_s * 1000),
            model=self._model.name,
            sessions=len(self._sessions),
            session_limit=self._settings.session_limit,
        )


def _keep(settings: GatewaySettings) -> KeepSettings:
    # A request that still runs must be in the journal.
    age_s = max(settings.journal_age_s, settings.request_timeout_s)
    return KeepSettings(
        grace_s=settings.resume_grace_s,
        interval_s=settings.journal_interval_s,
        limits=StreamLimits(max_bytes=settings.journal_bytes, max_age_s=age_s, replicas=settings.journal_replicas),
    )
