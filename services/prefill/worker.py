"""One prefill worker: the queue, the engine and the hand-offs, wired to the bus.

Each prompt goes through `QUEUED -> COMPUTING -> SENDING -> ENDED`. Its cache is published slice by slice while the
next slice is computed; the first token goes to the gateway before the hand-off is done. `service.py` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Set

from services.prefill.compute import ComputeLoop
from services.prefill.held import Held, HeldRuns
from services.prefill.order import rank_of
from services.prefill.queue import RunQueue
from services.prefill.run import PrefillRun, RunState
from services.prefill.settings import PrefillSettings
from services.prefill.transfers import Transfers
from shared.core import KvEncoding, Role
from shared.errors import DeadlineExceeded, Draining, InvalidRequest, Overloaded, ProtocolError, UnsupportedModel
from shared.kv.encoding import offered
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel
from shared.protocol.to_prefill import RunAccepted, RunPrefill
from shared.protocol.wire import Message, decode
from shared.runtime.fences import Fences
from shared.runtime.holder import Holding
from shared.runtime.reaper import Reaper
from shared.runtime.worker_service import Load, WorkerContext

logger = logging.getLogger(__name__)


class PrefillWorker:
    """A `shared.runtime.worker_service.Worker` for the prefill phase."""

    def __init__(self, settings: PrefillSettings, context: WorkerContext) -> None:
        self._settings = settings
        self._engine = context.engine
        self._links = context.links
        self._tasks = context.tasks
        self._queue = RunQueue(
            context.engine, settings.queue_limit_tokens, rank_of(settings.order, settings.aging_tokens_per_s)
        )
        self._wake = asyncio.Event()
        self._held = HeldRuns(context.engine, self._queue, context.links, context.tasks, freed=self._wake.set)
        most = KvEncoding.INT8 if settings.kv_int8 else KvEncoding.EXACT
        self._encodings = offered(most, context.engine.spec.layout)
        self._transfers = Transfers(
            context.engine,
            self._held,
            context.links,
            context.tasks,
            chunk_bytes=settings.chunk_bytes,
            encodings=self._encodings,
            int8=context.int8,
        )
        self._compute = ComputeLoop(
            context,
            self._queue,
            self._held,
            self._transfers,
            wake=self._wake,
            chunk_tokens=settings.chunk_tokens,
            core_to_spare=not settings.cores or len(settings.cores) > settings.engine_threads,
        )
        self._fences = Fences()
        self._draining = False

    async def start(self) -> None:
        """Start computing and listen for runs and cancels."""
        self._tasks.start(self._compute.run(), name="compute")
        self._tasks.start(Reaper(self._links.gateways, self._reap).run(), name="reaper")
        control = self._links.control
        await control.serve(subjects.run(self._settings.id), RunPrefill, self._accept)
        await control.listen(subjects.cancel(Role.PREFILL, self._settings.id), self._on_cancel)

    def load(self) -> Load:
        return Load(
            sessions=len(self._held),
            session_limit=0,
            queued_tokens=self._queue.queued_tokens,
            queue_limit_tokens=self._settings.queue_limit_tokens,
            kv_encodings=self._encodings,
        )

    def held(self) -> list[Holding]:
        """See `shared.runtime.holder.Holder`."""
        return [holding_of(held.run) for held in self._held if held.run.state is not RunState.ENDED]

    def drop(self, holdings: Set[Holding]) -> None:
        """See `shared.runtime.holder.Holder`."""
        for held in self._held:
            if holding_of(held.run) in holdings:
                self._fences.raise_fence(held.run.order.session, held.run.order.epoch)
                self._held.end(held)

    async def drain(self) -> None:
        """Take no prompts; return when the last hand-off is done."""
        self._draining = True
        await self._held.emptied()

    def end_all(self) -> None:
        """End every run with an error to its gateway."""
        self._draining = True
        for held in self._held:
            self._held.give_up(held, Draining("the prefill worker stops"))

    async def _accept(self, order: RunPrefill) -> Message:
        self._check(order)
        run = PrefillRun(order, time.monotonic())
        held = self._held.find(run.key)
        if held is None:
            await self._take_up(run)
        elif held.run.state is RunState.ENDED or held.run.order.transfer != order.transfer:
            self._held.end(held)
            raise Overloaded(f"an earlier run of session {order.session} is being freed")
        return RunAccepted(
            session=order.session,
            epoch=order.epoch,
            worker=self._settings.id,
            queued_tokens=self._queue.queued_tokens,
            boot=self._links.boot,
            beat=self._links.lease.number,
        )

    async def _take_up(self, run: PrefillRun) -> None:
        self._queue.admit(run)
        held = Held(run, self._transfers.sender(run))
        self._held.add(held)
        try:
            await self._transfers.listen(held)
        except BaseException:
            self._held.end(held)
            raise
        if run.state is RunState.ENDED and held.feedback is not None:
            await held.feedback.close()
        self._wake.set()
        self._links.took(run.order.session)

    def _check(self, order: RunPrefill) -> None:
        if self._draining:
            raise Draining("the prefill worker takes no new prompts")
        self._fences.check(order.session, order.epoch)
        if order.fingerprint != self._engine.spec.fingerprint:
            raise UnsupportedModel(f"model {order.fingerprint}, this worker serves {self._engine.spec.fingerprint}")
        if order.max_tokens <= order.emitted or order.deadline_ms <= 0:
            raise InvalidRequest("nothing left to generate")

    def _on_cancel(self, _subject: str, data: bytes) -> None:
        try:
            cancel = decode(Cancel, data)
        except ProtocolError as error:
            logger.warning("cancel refused: %s", error)
            return
        if cancel.fence:
            self._fences.raise_fence(cancel.session, cancel.epoch)
        # Runs are accepted in tasks: one that came before this cancel may not be held yet, but soon will.
        asyncio.get_running_loop().call_soon(self._cancel, cancel)

    def _cancel(self, cancel: Cancel) -> None:
        for held in self._held:
            if held.run.order.session == cancel.session and held.run.order.epoch <= cancel.epoch:
                if cancel.fence:
                    self._held.cancel_decode(held.run, cancel.reason)
                self._held.end(held)

    def _reap(self, gateway_silent: Callable[[str], bool]) -> None:
        now_s = time.monotonic()
        for held in self._held:
            if held.run.state is RunState.ENDED:
                continue
            self._held.renew_claim(held, now_s)
            if held.run.deadline_s <= now_s:
                self._held.give_up(held, DeadlineExceeded("the request's deadline passed during prefill"))
            elif gateway_silent(held.run.order.gateway):
                logger.warning("gateway is silent, run dropped", extra={"session": held.run.order.session})
                self._held.cancel_decode(held.run, "gateway is silent")
                self._held.end(held)


def holding_of(run: PrefillRun) -> Holding:
    """`run` as gateways know it."""
    return Holding(run.order.gateway, run.order.session, run.order.epoch)
