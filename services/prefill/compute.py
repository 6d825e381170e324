"""The loop that computes prompts: one engine call after the other, and what follows from each."""

from __future__ import annotations

import asyncio
import logging

from services.prefill.held import Held, HeldRuns
from services.prefill.layer_stream import LayerStream
from services.prefill.queue import RunQueue
from services.prefill.run import RunState
from services.prefill.transfers import Transfers
from shared.core import SampledToken
from shared.engine.contract import PrefillSlice
from shared.errors import WorkerFailed
from shared.runtime import stages
from shared.runtime.stages import Stage
from shared.runtime.worker_service import WorkerContext

logger = logging.getLogger(__name__)


class ComputeLoop:
    """Each call computes at most `chunk_tokens` tokens; the KV of one goes out while the next one runs.

    Whoever adds a prompt, or frees memory for one, sets `wake`.
    """

    def __init__(
        self,
        context: WorkerContext,
        queue: RunQueue,
        held: HeldRuns,
        transfers: Transfers,
        *,
        wake: asyncio.Event,
        chunk_tokens: int,
    ) -> None:
        self._engine = context.engine
        self._thread = context.thread
        self._links = context.links
        self._worker = context.identity.worker
        self._queue = queue
        self._held = held
        self._transfers = transfers
        self._chunk_tokens = chunk_tokens
        self._wake = wake

    async def run(self) -> None:
        """Task body: one engine call after the other while there are prompts."""
        while True:
            await self._links.tenure.may_step()
            self._wake.clear()
            picked, refused = self._queue.pick(self._chunk_tokens)
            for run, error in refused:
                self._held.give_up(self._held[run.key], error)
            if picked:
                await self._compute([self._held[run.key] for run, _ in picked], [part for _, part in picked])
            elif not refused:
                await self._wake.wait()

    async def _compute(self, batch: list[Held], slices: list[PrefillSlice]) -> None:
        feeds = [(held.sender, part) for held, part in zip(batch, slices, strict=True)]
        stream = LayerStream(feeds, asyncio.get_running_loop())
        for held in batch:
            self._transfers.start(held)
        with self._held.computing(batch):
            try:
                sampled, ended_s = await self._thread.call(stream.compute, self._engine)
            except Exception as error:
                logger.error("prefill failed, %d prompts with it", len(batch), exc_info=error)
                for held in batch:
                    self._held.give_up(held, WorkerFailed(f"prefill failed: {error}"))
                return
        for held, part, token in zip(batch, slices, sampled, strict=True):
            if held.run.state is not RunState.ENDED:
                stream.finish(held.sender, self._engine.spec.layout.layers)
                self._absorb(held, part, token, ended_s)

    def _absorb(self, held: Held, part: PrefillSlice, token: SampledToken | None, computed_at_s: float) -> None:
        held.run.done_tokens = part.stop
        if token is None:
            return
        self._queue.remove(held.run)
        frame = held.run.first_frame(token, self._engine.spec, self._worker)
        if frame.prefill is not None:
            stages.observe(Stage.PREFILL_QUEUE, frame.prefill.queue_ms)
            stages.observe(Stage.PREFILL, frame.prefill.compute_ms)
        self._links.send_frames([(held.run.order.gateway, frame)])
        self._links.changed()
        if frame.finish is not None:
            self._held.cancel_decode(held.run, "the first token was the last")
            self._held.end(held)
            return
        held.run.advance(RunState.SENDING)
        held.sender.finish(token.token_id, computed_at_s)
