"""The loop that computes prompts: one engine call after the other, and what follows from each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from services.prefill.held import Held, HeldRuns
from services.prefill.layer_stream import LayerStream
from services.prefill.queue import RunQueue
from services.prefill.run import RunState
from services.prefill.transfers import Transfers
from shared.core import SampledToken
from shared.engine.contract import PrefillSlice
from shared.errors import EngineFailed
from shared.protocol.to_gateway import TokenFrame
from shared.runtime import stages
from shared.runtime.apart import Streak, call_apart
from shared.runtime.stages import Stage
from shared.runtime.worker_service import WorkerContext

Slice = tuple[Held, PrefillSlice]
Computed = tuple[SampledToken | None, float]


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
        core_to_spare: bool,
    ) -> None:
        self._engine = context.engine
        self._thread = context.thread
        self._links = context.links
        self._worker = context.identity.worker
        self._queue = queue
        self._held = held
        self._transfers = transfers
        self._chunk_tokens = chunk_tokens
        self._core_to_spare = core_to_spare
        self._wake = wake
        self._streak = Streak()

    async def run(self) -> None:
        """Task body: one engine call after the other while there are prompts.

        Raises EngineFailed when the engine fails on everyone.
        """
        while True:
            await self._links.tenure.may_step()
            self._wake.clear()
            picked, refused = self._queue.pick(self._chunk_tokens)
            for run, error in refused:
                self._held.give_up(self._held[run.key], error)
            for batch in _calls([(self._held[run.key], part) for run, part in picked]):
                await self._announce([held for held, _ in batch if not held.run.began])
                still_wanted = [(held, part) for held, part in batch if held.run.state is not RunState.ENDED]
                if still_wanted:
                    await self._compute(still_wanted)
            if not picked and not refused:
                await self._wake.wait()

    async def _compute(self, batch: list[Slice]) -> None:
        stream = LayerStream(
            [(held.sender, part) for held, part in batch], asyncio.get_running_loop(), late=self._late(batch)
        )
        for held, _ in batch:
            self._transfers.start(held)

        async def call(some: Sequence[Slice]) -> list[Computed]:
            sampled, ended_s = await self._thread.call(stream.compute, self._engine, [part for _, part in some])
            return [(token, ended_s) for token in sampled]

        with self._held.computing(held for held, _ in batch):
            outcomes = await call_apart(call, batch)
        for (held, part), outcome in zip(batch, outcomes, strict=True):
            if held.run.state is RunState.ENDED:
                continue
            if isinstance(outcome, EngineFailed):
                self._held.give_up(held, outcome)
                self._streak.failed(held.run.order.session)
                continue
            self._streak.served()
            token, ended_s = outcome
            held.run.done_tokens = part.stop
            frame = None if token is None else self._first_frame(held, token)
            # Behind the first token, which somebody waits for.
            stream.finish(held.sender, self._engine.spec.layout.layers)
            if token is not None and frame is not None:
                self._conclude(held, frame, token, ended_s)

    def _late(self, batch: Sequence[Slice]) -> list[PrefillSlice]:
        """Slices whose end brings a first token that sending would hold up."""
        if self._core_to_spare:
            return []
        return [part for held, part in batch if part.stop == held.run.prompt_tokens]

    async def _announce(self, fresh: list[Held]) -> None:
        """Their gateways learn that the engine takes them up; for sure, where that may end this process."""
        for held in fresh:
            held.run.began = True
        if len(fresh) == 1 and fresh[0].run.order.trial:
            await self._links.announce(fresh[0].run.order.gateway, fresh[0].run.began_frame())
        else:
            self._links.send_frames([(held.run.order.gateway, held.run.began_frame()) for held in fresh])

    def _first_frame(self, held: Held, token: SampledToken) -> TokenFrame:
        """The prompt is computed: tell its gateway."""
        self._queue.remove(held.run)
        frame = held.run.first_frame(token, self._engine.spec, self._worker)
        if frame.prefill is not None:
            stages.observe(Stage.PREFILL_QUEUE, frame.prefill.queue_ms)
            stages.observe(Stage.PREFILL, frame.prefill.compute_ms)
        self._links.send_frames([(held.run.order.gateway, frame)])
        self._links.changed()
        return frame

    def _conclude(self, held: Held, frame: TokenFrame, token: SampledToken, computed_at_s: float) -> None:
        """What is left is the hand-off; nothing, if the first token was the last."""
        if frame.finish is not None:
            self._held.cancel_decode(held.run, "the first token was the last")
            self._held.end(held)
            return
        held.run.advance(RunState.SENDING)
        held.sender.finish(token.token_id, computed_at_s)


def _calls(picked: list[Slice]) -> Iterator[list[Slice]]:
    """Who shares a call: a prompt on trial shares none."""
    together = [one for one in picked if not one[0].run.order.trial]
    yield together
    for one in picked:
        if one not in together:
            yield [one]
