"""The claim desk: who may hold a session on this worker. A claim is granted or refused, never queued.

Plain object over the engine; the service around it subscribes, answers and publishes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from services.decode.session import DecodeSession, SessionState
from shared.core import KvEncoding
from shared.engine.contract import Engine, SequenceSpec
from shared.errors import Cancelled, InvalidRequest, Overloaded, UnsupportedModel
from shared.kv.encoding import in_dtype
from shared.kv.int8 import Int8Codec
from shared.kv.receiver import Receiver, TransferIdentity
from shared.protocol.to_decode import Claim, ClaimGranted
from shared.protocol.wire import unpack_ids
from shared.runtime.fences import Fences


class ClaimDesk:
    """Grants claims and knows every session held. `release` frees its engine memory; the caller picks the moment.

    `encodings` are how caches may come, first what is wanted.
    """

    def __init__(
        self,
        engine: Engine,
        worker: str,
        *,
        batch_limit: int,
        window_bytes: int,
        encodings: tuple[KvEncoding, ...] = (KvEncoding.EXACT,),
        int8: Int8Codec | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._batch_limit = batch_limit
        self._encodings = encodings
        self._int8 = int8 or Int8Codec()
        # A chunk is never smaller than one token of one layer, and the sender wants room for two, in its own dtype.
        widest = in_dtype(engine.spec.layout, "float32")
        self._window_bytes = max(window_bytes, 2 * widest.token_layer_bytes)
        self._clock = clock
        self._fences = Fences()
        self._sessions: dict[str, DecodeSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self) -> list[DecodeSession]:
        return list(self._sessions.values())

    def find(self, session: str) -> DecodeSession | None:
        return self._sessions.get(session)

    def older(self, claim: Claim) -> DecodeSession | None:
        """The session's earlier epoch, if held here: it must end, `claim` takes its place."""
        held = self._sessions.get(claim.session)
        return held if held is not None and held.claim.epoch < claim.epoch else None

    def grant(self, claim: Claim) -> DecodeSession:
        """Reserve room for `claim`. A repeated claim gets the grant it got before.

        Raises Cancelled for an epoch that is over, UnsupportedModel for another model, Overloaded or KvExhausted for
        want of room, or while the same claim is being freed, InvalidRequest and ContextExceeded for what never fits.
        """
        self._fences.check(claim.session, claim.epoch)
        held = self._sessions.get(claim.session)
        if held is not None and held.claim.epoch == claim.epoch:
            return _alive(held)
        self._check(claim, held)
        session = self._open(claim)
        self._sessions[claim.session] = session
        return session

    def fence(self, session: str, epoch: int) -> None:
        """No claim for this or an older epoch any more."""
        self._fences.raise_fence(session, epoch)

    def release(self, session: DecodeSession) -> None:
        """Free everything. Idempotent."""
        self._engine.close(session.key)
        if self._sessions.get(session.claim.session) is session:
            del self._sessions[session.claim.session]

    def overdue(self) -> list[DecodeSession]:
        now_s = self._clock()
        return [session for session in self._sessions.values() if session.deadline_s <= now_s]

    def unfed(self, lease_s: float) -> list[DecodeSession]:
        """Claims whose prefill has said nothing for `lease_s`."""
        now_s = self._clock()
        claimed = [session for session in self._sessions.values() if session.state is SessionState.CLAIMED]
        return [session for session in claimed if now_s - session.fed_at_s > lease_s]

    def fed(self, session: DecodeSession) -> None:
        """Prefill has spoken: the claim's lease begins anew."""
        session.fed_at_s = self._clock()

    def _check(self, claim: Claim, held: DecodeSession | None) -> None:
        if held is not None and held.claim.epoch > claim.epoch:
            raise Cancelled(f"session {claim.session} is held in epoch {held.claim.epoch}")
        if claim.fingerprint != self._engine.spec.fingerprint:
            raise UnsupportedModel(f"model {claim.fingerprint}, this worker serves {self._engine.spec.fingerprint}")
        if claim.max_tokens <= claim.emitted or claim.deadline_ms <= 0:
            raise InvalidRequest("nothing left to generate")
        others = len(self._sessions) - (held is not None)
        if others >= self._batch_limit:
            raise Overloaded(f"{self._batch_limit} sessions are held already")

    def _open(self, claim: Claim) -> DecodeSession:
        prompt_ids = unpack_ids(claim.prompt_ids)
        if not prompt_ids:
            raise InvalidRequest("the prompt is empty", param="prompt")
        key = f"{claim.session}.{claim.epoch}"
        cached_tokens = self._engine.open(
            SequenceSpec(
                key=key,
                prompt_ids=prompt_ids,
                sampling=claim.sampling,
                capacity_tokens=len(prompt_ids) + claim.max_tokens - claim.emitted,
                emitted=claim.emitted,
                cache_salt=claim.cache_salt,
            )
        )
        grant = ClaimGranted(
            session=claim.session,
            epoch=claim.epoch,
            worker=self._worker,
            transfer=secrets.randbits(32),
            credit_bytes=self._window_bytes,
            cached_tokens=cached_tokens,
            kv_encodings=tuple(encoding.value for encoding in self._encodings),
        )
        session = DecodeSession(
            claim, grant, self._receiver(key, claim, grant, len(prompt_ids)), self._clock() + claim.deadline_ms / 1000
        )
        self.fed(session)
        return session

    def _receiver(self, key: str, claim: Claim, grant: ClaimGranted, prompt_tokens: int) -> Receiver:
        return Receiver(
            self._engine,
            key,
            self._engine.spec,
            TransferIdentity(session=claim.session, epoch=claim.epoch, transfer=grant.transfer),
            prompt_tokens=prompt_tokens,
            cached_tokens=grant.cached_tokens,
            window_bytes=grant.credit_bytes,
            accepts=self._encodings,
            codec=self._int8,
        )


def _alive(held: DecodeSession) -> DecodeSession:
    if held.state is SessionState.ENDED:
        raise Overloaded(f"session {held.claim.session} is being freed")
    return held
