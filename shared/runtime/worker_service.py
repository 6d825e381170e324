"""The life of a worker process, the same for prefill and decode: load, connect, serve, beat, drain, stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from shared.bus.settings import BusSettings
from shared.core import KvEncoding, Role
from shared.engine.contract import Engine
from shared.errors import WorkerFailed
from shared.kv.int8 import Int8Codec
from shared.protocol import subjects
from shared.protocol.to_all import Beat, WorkerState
from shared.runtime.engine_thread import EngineThread
from shared.runtime.engine_watch import EngineWatch
from shared.runtime.holder import Holder
from shared.runtime.tasks import Tasks
from shared.runtime.worker_links import WorkerIdentity, WorkerLinks

logger = logging.getLogger(__name__)

QUIESCE_S = 5.0


class WorkerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is given: its engine and the engine's thread, its links, its tasks."""

    identity: WorkerIdentity
    engine: Engine
    int8: Int8Codec
    thread: EngineThread
    links: WorkerLinks
    tasks: Tasks


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a worker is: the part of its beat that only it knows."""

    sessions: int
    session_limit: int
    queued_tokens: int = 0
    queue_limit_tokens: int = 0
    tokens_per_s: float = 0.0
    kv_encodings: tuple[KvEncoding, ...] = (KvEncoding.EXACT,)


class Worker(Holder, Protocol):
    """The part that differs between the phases."""

    async def start(self) -> None:
        """Subscribe and start tasks; work may arrive when it returns."""

    def load(self) -> Load:
        """For the next beat."""

    async def drain(self) -> None:
        """Take nothing new; return when the last session has ended."""

    def end_all(self) -> None:
        """End every session with `Draining` to its gateway, which moves it on."""


class WorkerService:
    """A `shared.runtime.service.Service` that runs one worker.

    `load_engine` builds and warms up the engine, on the engine's thread; `load_int8` follows, the codec of caches that
    travel as int8. `make` builds the worker around them.
    """

    def __init__(
        self,
        role: Role,
        worker_id: str,
        nats: BusSettings,
        beat_interval_s: float,
        *,
        engine_stall_s: float,
        load_engine: Callable[[], Engine],
        load_int8: Callable[[], Int8Codec] = Int8Codec,
        make: Callable[[WorkerContext], Worker],
        tasks: Tasks,
    ) -> None:
        self._identity = WorkerIdentity(
            role=role, worker=subjects.check_name(worker_id), beat_interval_s=beat_interval_s
        )
        self._nats = nats
        self._engine_stall_s = engine_stall_s
        self._load_engine = load_engine
        self._load_int8 = load_int8
        self._make = make
        self._tasks = tasks
        self._thread = EngineThread(f"{role.value}-engine")
        self._state = WorkerState.STARTING
        self._links: WorkerLinks | None = None
        self._worker: Worker | None = None
        self._watch: EngineWatch | None = None

    def stuck(self) -> str:
        """Why the engine makes no progress. Loading a model may take any time."""
        return "" if self._watch is None else self._watch.look()

    async def start(self) -> None:
        """Load the model, connect, and say READY to the fleet."""
        engine = await self._thread.call(self._load_engine)
        int8 = await self._thread.call(self._load_int8)
        self._watch = EngineWatch(self._thread, self._engine_stall_s)
        self._links = links = await WorkerLinks.open(self._identity, self._nats, self._tasks)
        context = WorkerContext(
            identity=self._identity, engine=engine, int8=int8, thread=self._thread, links=links, tasks=self._tasks
        )
        self._worker = worker = self._make(context)
        await worker.start()
        await links.control.flush()
        self._state = WorkerState.READY
        links.start_heartbeat(lambda: self._beat(engine, worker, links), worker)

    async def drain(self) -> None:
        """Take no new work; return when the last session has ended."""
        self._state = WorkerState.DRAINING
        if self._worker is not None and self._links is not None:
            await self._links.beat_now()
            await self._worker.drain()

    async def hand_over(self) -> None:
        """End the sessions that are not done: their gateways move them to other workers, and count no failure."""
        if self._worker is not None:
            self._worker.end_all()
            await self._worker.drain()

    async def stop(self) -> None:
        """End what still runs and disconnect. Idempotent. Raises WorkerFailed when the engine does not return."""
        self._state = WorkerState.STOPPED
        quiet = True
        if self._worker is not None:
            self._worker.end_all()
        if self._links is not None:
            await self._links.beat_now()
            quiet = await self._quiesce()
            await self._links.close()
        await self._tasks.close()
        if not quiet:
            raise WorkerFailed(f"the engine's last call did not end within {QUIESCE_S:.0f} s")
        self._thread.close()

    async def _quiesce(self) -> bool:
        """The call the engine is in still writes its sessions' memory: wait until it is over and all is freed."""
        if self._worker is None:
            return True
        try:
            async with asyncio.timeout(QUIESCE_S):
                await self._worker.drain()
        except TimeoutError:
            return False
        return True

    def _offered_state(self) -> WorkerState:
        """A worker whose engine may have stalled takes no new work until it knows."""
        slow = self._watch is not None and self._watch.slow
        return WorkerState.DRAINING if slow and self._state is WorkerState.READY else self._state

    def _beat(self, engine: Engine, worker: Worker, links: WorkerLinks) -> Beat:
        usage = engine.usage()
        load = worker.load()
        return Beat(
            worker=self._identity.worker,
            role=self._identity.role,
            boot=links.tenure.boot,
            state=self._offered_state(),
            interval_ms=round(self._identity.beat_interval_s * 1000),
            connection=links.control.reconnects,
            number=links.lease.sent(),
            taken=links.taken(),
            model=engine.spec.name,
            fingerprint=engine.spec.fingerprint,
            parts=engine.spec.parts,
            arithmetic=engine.spec.arithmetic,
            context_tokens=engine.spec.context_tokens,
            kv_token_bytes=engine.spec.layout.token_bytes,
            kv_total_bytes=usage.total_bytes,
            kv_free_bytes=usage.free_bytes,
            sessions=load.sessions,
            session_limit=load.session_limit,
            queued_tokens=load.queued_tokens,
            queue_limit_tokens=load.queue_limit_tokens,
            tokens_per_s=load.tokens_per_s,
            kv_encodings=tuple(encoding.value for encoding in load.kv_encodings),
        )
