"""One prefill worker: the queue and the hand-offs, wired to the bus.

Each prompt goes through `QUEUED -> COMPUTING -> SENDING -> ENDED`. Its cache is published slice by slice while the
next slice is computed; the first token goes to the gateway before the hand-off is done. `service.py` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from services.prefill.handoff import HandoffBus
from services.prefill.layer_stream import LayerStream
from services.prefill.queue import RunQueue
from services.prefill.run import PrefillRun, RunState
from services.prefill.settings import PrefillSettings
from shared.bus.data_plane.connection import Listening
from shared.core import Role, SampledToken
from shared.engine.contract import PrefillSlice
from shared.errors import (
    BatonError,
    DeadlineExceeded,
    Draining,
    HandoffFailed,
    InvalidRequest,
    Overloaded,
    ProtocolError,
    UnsupportedModel,
    WorkerFailed,
)
from shared.kv.sender import Sender, TransferTarget
from shared.protocol import subjects
from shared.protocol.kv_chunk import HEADER_BYTES
from shared.protocol.to_decode import Cancel, CreditProbe
from shared.protocol.to_prefill import Feedback, RunAccepted, RunPrefill
from shared.protocol.wire import Message, decode
from shared.runtime.fences import Fences
from shared.runtime.reaper import Reaper
from shared.runtime.worker_service import Load, WorkerContext

logger = logging.getLogger(__name__)

RENEW_CLAIM_S = 5.0


class _Held:
    """A run with what must be closed when it ends."""

    def __init__(self, run: PrefillRun, sender: Sender) -> None:
        self.run = run
        self.sender = sender
        self.feedback: Listening | None = None
        self.transfer: asyncio.Task[None] | None = None
        self.claim_renewed_s = time.monotonic()


class PrefillWorker:
    """A `shared.runtime.worker_service.Worker` for the prefill phase."""

    def __init__(self, settings: PrefillSettings, context: WorkerContext) -> None:
        self._settings = settings
        self._engine = context.engine
        self._thread = context.thread
        self._links = context.links
        self._tasks = context.tasks
        self._queue = RunQueue(context.engine, settings.queue_limit_tokens)
        self._held: dict[str, _Held] = {}
        self._computing: frozenset[str] = frozenset()
        self._fences = Fences()
        self._draining = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Start computing and listen for runs and cancels."""
        self._tasks.start(self._compute(), name="compute")
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
        )

    async def drain(self) -> None:
        """Take no prompts; return when the last hand-off is done."""
        self._draining = True
        while self._held:
            self._idle.clear()
            await self._idle.wait()

    def end_all(self) -> None:
        """End every run with an error to its gateway."""
        self._draining = True
        for held in list(self._held.values()):
            self._give_up(held, Draining("the prefill worker stops"))

    async def _accept(self, order: RunPrefill) -> Message:
        self._check(order)
        run = PrefillRun(order, time.monotonic())
        held = self._held.get(run.key)
        if held is None:
            await self._take_up(run)
        elif held.run.state is RunState.ENDED or held.run.order.transfer != order.transfer:
            self._end(held)
            raise Overloaded(f"an earlier run of session {order.session} is being freed")
        return RunAccepted(
            session=order.session,
            epoch=order.epoch,
            worker=self._settings.id,
            queued_tokens=self._queue.queued_tokens,
        )

    async def _take_up(self, run: PrefillRun) -> None:
        self._queue.admit(run)
        held = self._held[run.key] = _Held(run, self._sender(run))
        subject = subjects.kv_feedback(run.order.session, run.order.epoch)
        try:
            held.feedback = await self._links.kv.listen(subject, held_listener(held.sender))
        except BaseException:
            self._end(held)
            raise
        if run.state is RunState.ENDED:
            await held.feedback.close()
        self._wake.set()
        self._links.changed()

    def _check(self, order: RunPrefill) -> None:
        if self._draining:
            raise Draining("the prefill worker takes no new prompts")
        self._fences.check(order.session, order.epoch)
        if order.fingerprint != self._engine.spec.fingerprint:
            raise UnsupportedModel(f"model {order.fingerprint}, this worker serves {self._engine.spec.fingerprint}")
        if order.max_tokens <= order.emitted or order.deadline_ms <= 0:
            raise InvalidRequest("nothing left to generate")

    def _sender(self, run: PrefillRun) -> Sender:
        order = run.order
        target = TransferTarget(
            session=order.session,
            epoch=order.epoch,
            transfer=order.transfer,
            credit_bytes=order.credit_bytes,
            prompt_tokens=run.prompt_tokens,
            chunk_bytes=self._chunk_bytes(order.credit_bytes),
        )
        bus = HandoffBus(self._links.kv, order.session, order.epoch)
        return Sender(self._engine, run.key, self._engine.spec, target, bus)

    def _chunk_bytes(self, credit_bytes: int) -> int:
        """At least two chunks fit the window: a grant that the receiver holds back never stops the sender."""
        return min(self._settings.chunk_bytes, self._links.kv.max_payload - HEADER_BYTES, credit_bytes // 2)

    async def _compute(self) -> None:
        """Task body: one engine call after the other while there are prompts."""
        while True:
            self._wake.clear()
            picked, refused = self._queue.pick(self._settings.chunk_tokens)
            for run, error in refused:
                self._give_up(self._held[run.key], error)
            if picked:
                await self._compute_slices([self._held[run.key] for run, _ in picked], [part for _, part in picked])
            elif not refused:
                await self._wake.wait()

    async def _compute_slices(self, batch: list[_Held], slices: list[PrefillSlice]) -> None:
        self._computing = frozenset(held.run.key for held in batch)
        feeds = [(held.sender, part) for held, part in zip(batch, slices, strict=True)]
        stream = LayerStream(feeds, asyncio.get_running_loop())
        for held in batch:
            if held.transfer is None:
                held.transfer = self._tasks.start(self._transfer(held), name=f"transfer {held.run.key}")
        try:
            sampled, ended_s = await self._thread.call(stream.compute, self._engine)
        except Exception as error:
            logger.error("prefill failed, %d prompts with it", len(batch), exc_info=error)
            self._computing = frozenset()
            for held in batch:
                self._give_up(held, WorkerFailed(f"prefill failed: {error}"))
                self._release_ended(held)
            return
        self._computing = frozenset()
        for held, part, token in zip(batch, slices, sampled, strict=True):
            if held.run.state is RunState.ENDED:
                self._release_ended(held)
            else:
                stream.finish(held.sender, self._engine.spec.layout.layers)
                self._absorb(held, part, token, ended_s)

    def _absorb(self, held: _Held, part: PrefillSlice, token: SampledToken | None, computed_at_s: float) -> None:
        held.run.done_tokens = part.stop
        if token is None:
            return
        self._queue.remove(held.run)
        frame = held.run.first_frame(token, self._engine.spec, self._settings.id)
        self._links.send_frames([(held.run.order.gateway, frame)])
        self._links.changed()
        if frame.finish is not None:
            self._cancel_decode(held.run, "the first token was the last")
            self._end(held)
            return
        held.run.advance(RunState.SENDING)
        held.sender.finish(token.token_id, computed_at_s)

    async def _transfer(self, held: _Held) -> None:
        try:
            await held.sender.send()
        except Exception as error:
            unforeseen = None if isinstance(error, BatonError) else error
            logger.warning("hand-off failed: %s", error, exc_info=unforeseen, extra={"session": held.run.order.session})
            self._give_up(held, HandoffFailed(str(error)))
        else:
            self._links.send_frames([(held.run.order.gateway, held.run.handoff_frame(held.sender))])
            self._end(held)

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
        for held in list(self._held.values()):
            if held.run.order.session == cancel.session and held.run.order.epoch <= cancel.epoch:
                if cancel.fence:
                    self._cancel_decode(held.run, cancel.reason)
                self._end(held)

    def _reap(self, gateway_silent: Callable[[str], bool]) -> None:
        now_s = time.monotonic()
        for held in list(self._held.values()):
            if held.run.state is RunState.ENDED:
                continue
            if held.run.state is RunState.QUEUED and now_s - held.claim_renewed_s > RENEW_CLAIM_S:
                self._renew_claim(held, now_s)
            if held.run.deadline_s <= now_s:
                self._give_up(held, DeadlineExceeded("the request's deadline passed during prefill"))
            elif gateway_silent(held.run.order.gateway):
                logger.warning("gateway is silent, run dropped", extra={"session": held.run.order.session})
                self._cancel_decode(held.run, "gateway is silent")
                self._end(held)

    def _renew_claim(self, held: _Held, now_s: float) -> None:
        """Decode gives up a claim it hears nothing of; one that waits in the queue here is still wanted."""
        held.claim_renewed_s = now_s
        order = held.run.order
        probe = CreditProbe(transfer=order.transfer, published_bytes=0)
        self._links.kv_out.post(subjects.kv_probe(order.session, order.epoch), probe)

    def _give_up(self, held: _Held, error: BatonError) -> None:
        """End the run with an error to its gateway, and release the claim that waits for it."""
        if held.run.state is RunState.ENDED:
            return
        self._links.send_frames([(held.run.order.gateway, held.run.error_frame(error))])
        self._cancel_decode(held.run, str(error))
        self._end(held)

    def _cancel_decode(self, run: PrefillRun, reason: str) -> None:
        cancel = Cancel(session=run.order.session, epoch=run.order.epoch, reason=reason)
        self._links.control_out.post(subjects.cancel(Role.DECODE, run.order.decode), cancel)

    def _end(self, held: _Held) -> None:
        """Free the run now, or right after the engine call it is in."""
        if held.run.state is RunState.ENDED:
            return
        held.run.advance(RunState.ENDED)
        self._queue.remove(held.run)
        if held.run.key not in self._computing:
            self._release_ended(held)

    def _release_ended(self, held: _Held) -> None:
        if self._held.pop(held.run.key, None) is None:
            return
        if held.transfer is not None and held.transfer is not asyncio.current_task():
            held.transfer.cancel()
        self._engine.close(held.run.key)
        if held.feedback is not None:
            self._tasks.start(held.feedback.close(), name="unsubscribe")
        self._wake.set()
        self._links.changed()
        if not self._held:
            self._idle.set()


def held_listener(sender: Sender) -> Callable[[str, memoryview], None]:
    """A listener that feeds decode's feedback to `sender`."""

    def heard(_subject: str, data: memoryview) -> None:
        try:
            sender.on_feedback(decode(Feedback, data))  # type: ignore[arg-type]
        except ProtocolError as error:
            logger.warning("KV feedback refused: %s", error)

    return heard
