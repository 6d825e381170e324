"""One session on a decode worker: what was claimed, how far it is, when it must end."""

from __future__ import annotations

import asyncio
import enum
import time

import msgspec

from shared.core import FinishReason, ModelSpec, Role, SampledToken, finish_reason
from shared.kv.receiver import Receiver
from shared.protocol.to_decode import Claim, ClaimGranted
from shared.protocol.to_gateway import HandoffReport, TokenFrame
from shared.protocol.wire import pack_ids
from shared.runtime import stages
from shared.runtime.stages import Stage


class SessionState(enum.Enum):
    """`CLAIMED`: waiting for its cache; `RUNNING`: in the batch; `ENDED`: to be freed."""

    CLAIMED = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


_NEXT = {
    SessionState.CLAIMED: {SessionState.RUNNING, SessionState.ENDED},
    SessionState.RUNNING: {SessionState.ENDED},
    SessionState.ENDED: set(),
}


class DecodeSession:
    """`claim` as granted; `deadline_s`, and `fed_at_s` when prefill last spoke, on this process's monotonic clock.

    Whoever subscribes to its KV subject holds `subscribing`, so that a repeated claim does not do it twice.
    """

    def __init__(self, claim: Claim, grant: ClaimGranted, receiver: Receiver, deadline_s: float) -> None:
        self.claim = claim
        self.grant = grant
        self.receiver = receiver
        self.deadline_s = deadline_s
        self.fed_at_s = 0.0
        self.state = SessionState.CLAIMED
        self.subscribing = asyncio.Lock()
        self._next_index = claim.emitted
        self._handoff: HandoffReport | None = None
        self._started_s = 0.0

    @property
    def key(self) -> str:
        """Its name in the engine: a new epoch is another sequence."""
        return f"{self.claim.session}.{self.claim.epoch}"

    def advance(self, state: SessionState) -> None:
        """Raises ValueError for a transition that makes no sense."""
        if state not in _NEXT[self.state]:
            raise ValueError(f"session {self.key}: {self.state.name} -> {state.name}")
        self.state = state

    def start(self, handoff: HandoffReport) -> None:
        """The cache is here and prefill has sent the first token: ours is the next."""
        self.advance(SessionState.RUNNING)
        self._handoff = handoff
        self._started_s = time.monotonic()
        self._next_index += 1

    @property
    def on_trial(self) -> bool:
        """Whether its first step may end this process, for all its gateway knows."""
        return self.claim.trial and self._next_index == self.claim.emitted + 1

    def began_frame(self) -> TokenFrame:
        """The frame that says that the engine takes the session up now."""
        return TokenFrame(
            session=self.claim.session,
            epoch=self.claim.epoch,
            index=self._next_index,
            ids=b"",
            began=Role.DECODE,
        )

    def frame(self, sampled: SampledToken, spec: ModelSpec) -> TokenFrame:
        """The frame that carries `sampled`, with the end if this token is the last."""
        index = self._next_index
        self._next_index += 1
        handoff = self._first_report()
        return TokenFrame(
            session=self.claim.session,
            epoch=self.claim.epoch,
            index=index,
            ids=pack_ids((sampled.token_id,)),
            logprobs=None if sampled.logprob is None else (sampled.logprob,),
            finish=self._finish(sampled.token_id, spec),
            handoff=handoff,
        )

    def _first_report(self) -> HandoffReport | None:
        """With the first token, what came before it."""
        handoff, self._handoff = self._handoff, None
        if handoff is None:
            return None
        first_step_ms = (time.monotonic() - self._started_s) * 1000
        stages.observe(Stage.FIRST_STEP, first_step_ms)
        return msgspec.structs.replace(handoff, first_step_ms=first_step_ms)

    def _finish(self, token_id: int, spec: ModelSpec) -> FinishReason | None:
        claim = self.claim
        return finish_reason(token_id, self._next_index, claim.max_tokens, spec.eos_token_ids, claim.sampling)
