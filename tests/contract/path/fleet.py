"""A whole fleet in one event loop: real services over a real nats-server, fake or real engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

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
from shared.core import FinishReason, KvEncoding, Role, SamplingParams
from shared.engine.contract import Engine, PrefillSlice, SequenceSpec
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_gateway import HeldSessions
from shared.runtime.beats import Heartbeat
from shared.runtime.hearing import redial_when_deaf
from shared.runtime.tasks import Tasks
from shared.runtime.worker_links import WorkerLinks
from shared.runtime.worker_service import WorkerService
from shared.text.tokenizer import Tokenizer

GATEWAY = "test-gateway"
GREEDY = SamplingParams(temperature=0.0)
BEAT_S = 0.2
FREED_WITHIN_S = 1.0
MakeEngine = Callable[[], Engine]


class FleetShape(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers, with which engines and settings. `ways` are the NATS urls of those that have their own."""

    make_prefill: MakeEngine
    make_decode: MakeEngine
    schedulers: int = 1
    prefills: int = 1
    decodes: int = 1
    chunk_tokens: int = 64
    chunk_bytes: int = 1 << 20
    window_bytes: int = 16 << 20
    batch_limit: int = 64
    queue_limit_tokens: int = 1 << 20
    queue_limit: int = 64
    claim_timeout_s: float = 2.0
    attempts: int = 3
    kv_int8: bool = True
    kv_encoding: KvEncoding = KvEncoding.EXACT
    ways: Mapping[str, str] = {}


class Fleet:
    """Services and the gateway's sessions, without the gateway's doors. `stop` checks that nothing was left behind."""

    def __init__(self, url: str, model: str, tokenizer: Tokenizer, shape: FleetShape) -> None:
        self.nats = BusSettings(url=url)
        self.model = model
        self.shape = shape
        self.engines: dict[str, Engine] = {}
        self.workers: dict[str, WorkerService] = {}
        self.schedulers: dict[str, SchedulerService] = {}
        self.failures: list[BaseException] = []
        self._gateway_silent = False
        self.tokenizer = tokenizer
        self._tasks: dict[str, Tasks] = {}
        self._at_rest: dict[str, tuple[int, int]] = {}
        self._fleet = GatewayFleet(model, BEAT_S)

    async def start(self) -> None:
        await self._start_gateway()
        for number in range(self.shape.schedulers):
            await self.start_scheduler(f"s{number}")
        for number in range(self.shape.prefills):
            await self.start_prefill(f"p{number}")
        for number in range(self.shape.decodes):
            await self.start_decode(f"d{number}")
        await self.ready()

    async def start_scheduler(self, name: str) -> None:
        settings = SchedulerSettings(
            id=name,
            queue_limit=self.shape.queue_limit,
            claim_timeout_s=self.shape.claim_timeout_s,
            beat_interval_s=BEAT_S,
            nats=self.nats,
        )
        service = SchedulerService(settings, self._owner(name))
        await service.start()
        self.schedulers[name] = service

    async def start_prefill(self, worker: str) -> None:
        settings = PrefillSettings(
            id=worker,
            chunk_tokens=self.shape.chunk_tokens,
            chunk_bytes=self.shape.chunk_bytes,
            kv_int8=self.shape.kv_int8,
            queue_limit_tokens=self.shape.queue_limit_tokens,
            beat_interval_s=BEAT_S,
            nats=self._nats_of(worker),
        )
        load = self._loader(worker, self.shape.make_prefill)
        await self._start_worker(worker, prefill_service(settings, load, self._owner(worker)))

    async def start_decode(self, worker: str) -> None:
        settings = DecodeSettings(
            id=worker,
            batch_limit=self.shape.batch_limit,
            window_bytes=self.shape.window_bytes,
            kv_encoding=self.shape.kv_encoding,
            beat_interval_s=BEAT_S,
            nats=self._nats_of(worker),
        )
        load = self._loader(worker, self.shape.make_decode)
        await self._start_worker(worker, decode_service(settings, load, self._owner(worker)))

    def generating(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int = 16,
        sampling: SamplingParams = GREEDY,
        stop: tuple[str, ...] = (),
        deadline_s: float = 30.0,
    ) -> GenerationRequest:
        """The request of one generation."""
        return GenerationRequest(
            request_id="test",
            prompt_ids=tuple(prompt_ids),
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            deadline_s=deadline_s,
        )

    async def generate(
        self, prompt_ids: Sequence[int], max_tokens: int = 16, sampling: SamplingParams = GREEDY, **options: object
    ) -> list[Delta]:
        """All deltas of one generation."""
        request = self.generating(prompt_ids, max_tokens, sampling, **options)  # type: ignore[arg-type]
        async with self.sessions.generate(request) as generation:
            return [delta async for delta in generation]

    async def ready(self) -> None:
        """Wait until gateway and schedulers have heard of all workers; what is held then is held at rest."""
        running = [*self.workers, *self.schedulers]
        await eventually(lambda: not self._fleet.status().reasons and len(self.alive()) >= len(running))
        for name in self._tasks:
            self._at_rest.setdefault(name, self._held(name))

    def alive(self) -> list[Beat]:
        """The last beats of workers and schedulers, as the gateway heard them."""
        roles = (Role.PREFILL, Role.DECODE, Role.SCHEDULER)
        return [beat for role in roles for beat in self._fleet.liveness.alive(role)]

    def sessions_on(self, worker: str) -> int:
        """How many sessions `worker` holds."""
        held = self.workers[worker]._worker
        return 0 if held is None else held.load().sessions

    async def at_rest(self, within_s: float = 10.0) -> None:
        """Wait until every worker has all its KV memory back, and no session, task or subscription is left."""
        await eventually(lambda: not self.leftovers(), within_s, lambda: f"left: {self.leftovers()}")

    def leftovers(self) -> list[str]:
        """What is held although nobody should hold it."""
        found = [f"KV of {name}" for name, engine in self.engines.items() if not _all_free(engine)]
        found += [f"sessions of {name}" for name in self.workers if self.sessions_on(name)]
        found += [
            f"tasks or subscriptions of {name}: {self._held(name)}, at rest {at_rest}"
            for name, at_rest in self._at_rest.items()
            if name in self._running and self._held(name) != at_rest
        ]
        found += [f"requests in {name}" for name, service in self.schedulers.items() if service._rooms.inside]
        found += ["sessions of the gateway"] * bool(len(self.sessions))
        return found

    @asynccontextmanager
    async def freed_soon(self) -> AsyncIterator[None]:
        """Everything is free again soon after the body."""
        yield
        await self.at_rest(within_s=FREED_WITHIN_S)

    async def stop_worker(self, worker: str) -> None:
        """Stop one worker for good, whatever it is doing."""
        await self.workers.pop(worker).stop()
        assert not len(self._tasks.pop(worker))

    async def lose_worker(self, worker: str) -> None:
        """Cut a worker off without a word: no beat, no error, no answer any more."""
        service = self.workers.pop(worker)
        self.engines.pop(worker)
        assert service._links is not None
        await service._links.control._client._close(0, do_cbs=False)
        service._links.kv._link.stop()
        self.lost.append(service)

    async def stop_scheduler(self, name: str) -> None:
        await self.schedulers.pop(name).stop()

    async def stop(self) -> None:
        """End everything; raises when something was left behind or a task failed."""
        try:
            await self.at_rest()
        finally:
            await self.close()
        assert not self.failures
        assert all(_all_free(engine) for engine in self.engines.values())
        assert not any(len(tasks) for tasks in self._tasks.values())

    async def close(self) -> None:
        """End everything."""
        for worker in (*self.workers.values(), *self.lost):
            await worker.stop()
        for scheduler in self.schedulers.values():
            await scheduler.stop()
        await self.silence_gateway()
        await self.bus.close()

    async def silence_gateway(self) -> None:
        """The gateway stops all it does, as if its process were gone."""
        self._gateway_silent = True
        await self._tasks[GATEWAY].close()

    @property
    def _running(self) -> set[str]:
        return {*self.workers, *self.schedulers, *([] if self._gateway_silent else [GATEWAY])}

    def _held(self, name: str) -> tuple[int, int]:
        """Tasks of `name`, and, where it is a worker, subscriptions but for that of answers to its own requests."""
        if name not in self.workers:
            return len(self._tasks[name]), 0
        links = self.workers[name]._links
        assert links is not None
        client = links.control._client
        asks = client._resp_sub_prefix is not None
        return len(self._tasks[name]), len(client._subs) - asks + links.kv.subscriptions

    def _nats_of(self, worker: str) -> BusSettings:
        return BusSettings(url=self.shape.ways.get(worker, self.nats.url))

    def links(self, worker: str) -> WorkerLinks:
        """The connections of `worker`."""
        links = self.workers[worker]._links
        assert links is not None
        return links

    def _owner(self, name: str) -> Tasks:
        self._tasks[name] = Tasks(name, self.failures.append)
        return self._tasks[name]

    def _loader(self, worker: str, make: MakeEngine) -> MakeEngine:
        def load() -> Engine:
            self.engines[worker] = make()
            return self.engines[worker]

        return load

    async def _start_worker(self, worker: str, service: WorkerService) -> None:
        await service.start()
        self.workers[worker] = service

    def _reconnected(self) -> None:
        self._fleet.liveness.resume()
        self.sessions.reconnected()

    async def _start_gateway(self) -> None:
        self.lost: list[WorkerService] = []
        tasks = self._owner(GATEWAY)
        self.bus = await Bus.connect(
            self._nats_of(GATEWAY),
            name="test gateway",
            spawn=tasks.start,
            on_disconnect=self._fleet.liveness.suspend,
            on_reconnect=self._reconnected,
        )
        outbox = Outbox(self.bus)
        links = SessionLinks(bus=self.bus, outbox=outbox, fleet=self._fleet.liveness, tasks=tasks)
        self.sessions = Sessions(
            links,
            self.tokenizer,
            gateway=GATEWAY,
            model=self.model,
            session_limit=4096,
            attempts=self.shape.attempts,
            quarantine_s=60.0,
        )
        await self.bus.listen(subjects.BEATS, self._fleet.hear)
        await self.bus.listen(subjects.QUARANTINE, self.sessions.suspicion.on_notice)
        await self.bus.listen(subjects.tokens(GATEWAY), self.sessions.on_tokens)
        await self.bus.listen(subjects.taken(GATEWAY), self.sessions.on_taken)
        await self.bus.serve(subjects.held(GATEWAY), HeldSessions, self.sessions.on_held)
        await self.bus.flush()
        tasks.start(outbox.run(), name="outbox")
        tasks.start(self.sessions.watch(), name="watch")
        tasks.start(Heartbeat(self.bus, _gateway_beat, BEAT_S).run(), name="heartbeat")
        tasks.start(redial_when_deaf(self.bus, self._fleet.liveness, BEAT_S), name="hearing")


async def eventually(
    true: Callable[[], bool], within_s: float = 10.0, why: Callable[[], str] = lambda: "it never came true"
) -> None:
    """Wait until `true()`. For what no event tells of: the state of other services."""
    until_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until_s, why()
        await asyncio.sleep(0.005)


def _all_free(engine: Engine) -> bool:
    usage = engine.usage()
    return usage.free_bytes == usage.total_bytes


def _gateway_beat() -> Beat:
    return Beat(
        worker=GATEWAY,
        role=Role.GATEWAY,
        boot="test",
        state=WorkerState.READY,
        interval_ms=round(BEAT_S * 1000),
    )


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
