"""One prompt on a prefill worker: what to compute, how far it is, where its cache goes."""

from __future__ import annotations

import enum
import time

from shared.core import FinishReason, ModelSpec, Role, SampledToken, finish_reason
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.errors import BatonError
from shared.kv.sender import Sender
from shared.protocol.to_decode import PrefillReport
from shared.protocol.to_gateway import HandoffReport, TokenFrame
from shared.protocol.to_prefill import RunPrefill
from shared.protocol.wire import pack_ids, unpack_ids


class RunState(enum.Enum):
    """`QUEUED`: no memory yet; `COMPUTING`: some slices done; `SENDING`: computed, the hand-off goes on; `ENDED`."""

    QUEUED = enum.auto()
    COMPUTING = enum.auto()
    SENDING = enum.auto()
    ENDED = enum.auto()


_NEXT = {
    RunState.QUEUED: {RunState.COMPUTING, RunState.ENDED},
    RunState.COMPUTING: {RunState.SENDING, RunState.ENDED},
    RunState.SENDING: {RunState.ENDED},
    RunState.ENDED: set(),
}


class PrefillRun:
    """`order` as received; times on this process's monotonic clock. Raises ProtocolError for ids that are none.

    `cached_tokens` were in this worker's cache when it began; up to `done_tokens` all is there.
    """

    def __init__(self, order: RunPrefill, now_s: float) -> None:
        self.order = order
        self.prompt_ids = unpack_ids(order.prompt_ids)
        self.deadline_s = now_s + order.deadline_ms / 1000
        self.state = RunState.QUEUED
        self.cached_tokens = 0
        self.done_tokens = 0
        self.began = False
        self._accepted_s = now_s
        self._started_s = now_s

    @property
    def key(self) -> str:
        """Its name in the engine: a new epoch is another sequence."""
        return f"{self.order.session}.{self.order.epoch}"

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def remaining_tokens(self) -> int:
        """Prompt tokens not computed yet."""
        return 0 if self.state is RunState.ENDED else self.prompt_tokens - self.done_tokens

    def advance(self, state: RunState) -> None:
        """Raises ValueError for a transition that makes no sense."""
        if state not in _NEXT[self.state]:
            raise ValueError(f"run {self.key}: {self.state.name} -> {state.name}")
        self.state = state

    def sequence(self) -> SequenceSpec:
        return SequenceSpec(
            key=self.key,
            prompt_ids=self.prompt_ids,
            sampling=self.order.sampling,
            capacity_tokens=self.prompt_tokens,
            emitted=self.order.emitted,
            cache_salt=self.order.cache_salt,
        )

    def waited_s(self, now_s: float) -> float:
        """How long ago it was accepted."""
        return now_s - self._accepted_s

    def begin(self, cached_tokens: int) -> None:
        """Its memory is reserved, and so much of the prompt is there; the first slice comes next."""
        self.advance(RunState.COMPUTING)
        self.cached_tokens = self.done_tokens = cached_tokens
        self._started_s = time.monotonic()

    def next_slice(self, budget_tokens: int) -> PrefillSlice:
        stop = min(self.prompt_tokens, self.done_tokens + budget_tokens)
        return PrefillSlice(self.key, self.done_tokens, stop)

    def report(self, worker: str) -> PrefillReport:
        now_s = time.monotonic()
        return PrefillReport(
            worker=worker,
            queue_ms=(self._started_s - self._accepted_s) * 1000,
            compute_ms=(now_s - self._started_s) * 1000,
            computed_tokens=self.prompt_tokens - self.cached_tokens,
            cached_tokens=self.cached_tokens,
        )

    def began_frame(self) -> TokenFrame:
        """The frame that says that the engine takes the prompt up now."""
        order = self.order
        return TokenFrame(session=order.session, epoch=order.epoch, index=order.emitted, ids=b"", began=Role.PREFILL)

    def first_frame(self, sampled: SampledToken, spec: ModelSpec, worker: str) -> TokenFrame:
        """The frame with the first token, and the end if it is the last one too."""
        order = self.order
        return TokenFrame(
            session=order.session,
            epoch=order.epoch,
            index=order.emitted,
            ids=pack_ids((sampled.token_id,)),
            logprobs=None if sampled.logprob is None else (sampled.logprob,),
            finish=finish_reason(
                sampled.token_id, order.emitted + 1, order.max_tokens, spec.eos_token_ids, order.sampling
            ),
            prefill=self.report(worker),
        )

    def handoff_frame(self, sender: Sender) -> TokenFrame:
        """The frame without tokens that says what the hand-off took."""
        report = HandoffReport(
            worker=self.order.decode,
            visible_ms=sender.visible_ms,
            payload_bytes=sender.payload_bytes,
            chunks=sender.chunks,
            resent_chunks=sender.resent_chunks,
            publish_ms=sender.publish_ms,
            wire_ms=sender.visible_ms - sender.publish_ms,
        )
        return TokenFrame(
            session=self.order.session, epoch=self.order.epoch, index=self.order.emitted, ids=b"", handoff=report
        )

    def error_frame(self, error: BatonError) -> TokenFrame:
        return TokenFrame(
            session=self.order.session,
            epoch=self.order.epoch,
            index=0,
            ids=b"",
            finish=FinishReason.ERROR,
            error=error.info,
        )
