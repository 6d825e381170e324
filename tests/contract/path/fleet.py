"""A whole fleet in one event loop: real services over a real nats-server, fake or real engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from services.decode.service import decode_service
from services.decode.settings import DecodeSettings
from services.gateway.fleet import GatewayFleet
from services.gateway.generation import Delta, GenerationRequest
from services.gateway.sessions.registry import SessionLinks, Sessions
from services.prefill.service import prefill_service
from services.prefill.settings import PrefillSettings
from services.scheduler.service import SchedulerService
from services.scheduler.settings import SchedulerSettings
from shared.bus.connection import Bus
from shared.bus.outbox import Outbox
from shared.bus.settings import BusSettings
from shared.core import FinishReason, Role, SamplingParams
from shared.engine.contract import Engine, PrefillSlice, SequenceSpec
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.runtime.beats import Heartbeat
from shared.runtime.tasks import Tasks
from shared.runtime.worker_service import WorkerService
from shared.text.tokenizer import Tokenizer

GATEWAY = "test-gateway"
GREEDY = SamplingParams(temperature=0.0)
MakeEngine = Callable[[], Engine]


class FleetShape(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers, with which engines and settings."""

    make_prefill: MakeEngine
    make_decode: MakeEngine
    prefills: int = 1
    decodes: int = 1
    chunk_tokens: int = 64
    chunk_bytes: int = 1 << 20
    window_bytes: int = 16 << 20
    batch_limit: int = 64
    queue_limit_tokens: int = 1 << 20
    queue_limit: int = 64
    attempts: int = 3


class Fleet:
    """Services and the gateway's sessions, without the gateway's doors. `stop` checks that nothing was left behind."""

    def __init__(self, url: str, model: str, tokenizer: Tokenizer, shape: FleetShape) -> None:
        self.nats = BusSettings(url=url)
        self.model = model
        self.shape = shape
        self.engines: dict[str, Engine] = {}
        self.workers: dict[str, WorkerService] = {}
        self._tokenizer = tokenizer
        self._tasks = Tasks("test gateway")
        self._fleet = GatewayFleet(model)

    async def start(self) -> None:
        self.scheduler = SchedulerService(
            SchedulerSettings(id="sched", queue_limit=self.shape.queue_limit, beat_interval_s=0.2, nats=self.nats),
            Tasks("scheduler"),
        )
        await self.scheduler.start()
        await self._start_gateway()
        for number in range(self.shape.prefills):
            await self.start_prefill(f"p{number}")
        for number in range(self.shape.decodes):
            await self.start_decode(f"d{number}")
        await self.ready()

    async def start_prefill(self, worker: str) -> None:
        settings = PrefillSettings(
            id=worker,
            chunk_tokens=self.shape.chunk_tokens,
            chunk_bytes=self.shape.chunk_bytes,
            queue_limit_tokens=self.shape.queue_limit_tokens,
            beat_interval_s=0.2,
            nats=self.nats,
        )
        service = prefill_service(settings, lambda: self._engine(worker, self.shape.make_prefill), Tasks(worker))
        await service.start()
        self.workers[worker] = service

    async def start_decode(self, worker: str) -> None:
        settings = DecodeSettings(
            id=worker,
            batch_limit=self.shape.batch_limit,
            window_bytes=self.shape.window_bytes,
            beat_interval_s=0.2,
            nats=self.nats,
        )
        service = decode_service(settings, lambda: self._engine(worker, self.shape.make_decode), Tasks(worker))
        await service.start()
        self.workers[worker] = service

    async def generate(
        self, prompt_ids: Sequence[int], max_tokens: int = 16, sampling: SamplingParams = GREEDY, **options: object
    ) -> list[Delta]:
        """All deltas of one generation."""
        request = GenerationRequest(
            request_id="test",
            prompt_ids=tuple(prompt_ids),
            max_tokens=max_tokens,
            sampling=sampling,
            **options,  # type: ignore[arg-type]
        )
        async with self.sessions.generate(request) as generation:
            return [delta async for delta in generation]

    async def ready(self) -> None:
        """Wait until gateway and scheduler have heard of all workers."""
        while self._fleet.status().reasons or len(self.alive()) < len(self.workers):
            await asyncio.sleep(0.01)

    def alive(self) -> list[Beat]:
        roles = (Role.PREFILL, Role.DECODE)
        return [beat for role in roles for beat in self._fleet.liveness.alive(role)]

    async def at_rest(self) -> None:
        """Wait until every worker has all its KV memory back."""
        while any(engine.usage().free_bytes != engine.usage().total_bytes for engine in self.engines.values()):
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        await self.at_rest()
        for worker in self.workers.values():
            await worker.stop()
        await self.scheduler.stop()
        await self._tasks.close()
        await self.bus.close()

    def _engine(self, worker: str, make: MakeEngine) -> Engine:
        self.engines[worker] = make()
        return self.engines[worker]

    async def _start_gateway(self) -> None:
        self.bus = await Bus.connect(self.nats, name="test gateway", spawn=self._tasks.start)
        outbox = Outbox(self.bus)
        links = SessionLinks(bus=self.bus, outbox=outbox, fleet=self._fleet.liveness, tasks=self._tasks)
        self.sessions = Sessions(
            links,
            self._tokenizer,
            gateway=GATEWAY,
            model=self.model,
            session_limit=4096,
            attempts=self.shape.attempts,
        )
        await self.bus.listen(subjects.BEATS, self._fleet.hear)
        await self.bus.listen(subjects.tokens(GATEWAY), self.sessions.on_tokens)
        await self.bus.flush()
        self._tasks.start(outbox.run(), name="outbox")
        self._tasks.start(self.sessions.watch(), name="watch")
        self._tasks.start(Heartbeat(self.bus, _gateway_beat, 0.2).run(), name="heartbeat")


def _gateway_beat() -> Beat:
    return Beat(worker=GATEWAY, role=Role.GATEWAY, boot="test", state=WorkerState.READY, interval_ms=200)


def token_ids(deltas: Sequence[Delta]) -> list[int]:
    return [token.token_id for delta in deltas for token in delta.tokens]


def colocated(
    engine: Engine, prompt_ids: Sequence[int], max_tokens: int, sampling: SamplingParams = GREEDY
) -> tuple[list[int], FinishReason]:
    """The same generation on one engine, no hand-off: what every path must give."""
    engine.open(
        SequenceSpec(
            key="colocated",
            prompt_ids=list(prompt_ids),
            sampling=sampling,
            capacity_tokens=len(prompt_ids) + max_tokens,
        )
    )
    first = engine.prefill([PrefillSlice("colocated", 0, len(prompt_ids))])[0]
    assert first is not None
    ids = [first.token_id]
    while len(ids) < max_tokens and ids[-1] not in engine.spec.eos_token_ids:
        ids.append(engine.step(["colocated"])[0].token_id)
    engine.close("colocated")
    return ids, FinishReason.STOP if ids[-1] in engine.spec.eos_token_ids else FinishReason.LENGTH
