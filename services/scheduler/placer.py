"""Placing one session: a decode that claims it, then a prefill that runs it. Decides; speaks through `Workers`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from services.scheduler.affinity import Cached, PrefixAffinity, WorkerStart, beginnings, start_of
from services.scheduler.fleet import Fleet
from services.scheduler.workers import Workers
from shared.core import KvEncoding, Role
from shared.errors import (
    BatonError,
    ContextExceeded,
    DeadlineExceeded,
    ProtocolError,
    Unavailable,
    UnsupportedModel,
)
from shared.protocol.to_all import Beat
from shared.protocol.to_decode import Cancel, Claim, ClaimGranted
from shared.protocol.to_prefill import RunAccepted, RunPrefill
from shared.protocol.to_scheduler import PlaceRequest
from shared.protocol.wire import ID_BYTES

logger = logging.getLogger(__name__)


class Placement(msgspec.Struct, frozen=True):
    """The two workers that hold a session now, in which of their starts, and how its decode computes which model."""

    prefill: str
    decode: str
    arithmetic: str = ""
    fingerprint: str = ""
    prefill_boot: str = ""
    decode_boot: str = ""


class Placer:
    """Tries workers in the fleet's order until one of each phase says yes."""

    def __init__(self, fleet: Fleet, workers: Workers) -> None:
        self._fleet = fleet
        self._workers = workers
        self._affinity = PrefixAffinity()

    async def place(
        self, request: PlaceRequest, deadline_ms: int, left_to_others: frozenset[str] = frozenset()
    ) -> Placement | None:
        """The placement, or None when nobody has room now. Decodes of fingerprints that are `left_to_others` have none.

        Raises Unavailable when a phase has no live worker of the model, or of the one that made the session's tokens,
        ContextExceeded when the request can never fit, and what a worker found wrong with the request itself.
        """
        capacity_tokens = _capacity_tokens(request)
        self._check_fleet(request, capacity_tokens)
        if not self._fleet.prefills(request.model, _prompt_tokens(request)):
            return None
        names = beginnings(request.prompt_ids, request.cache_salt)
        cached = self._affinity.cached(names)
        decodes = _of_one_model(request, self._fleet.decodes(request.model, capacity_tokens, cached))
        passed_over = set(left_to_others)
        for beat in _in_order(request, _of_one_tokenizer(request, decodes)):
            if beat.fingerprint in passed_over:
                continue
            if not self._fleet.prefills(request.model, _prompt_tokens(request), beat.fingerprint):
                continue
            grant = await self._claim(beat, request, deadline_ms)
            if grant is None:
                continue
            accepted = await self._run(beat, grant, request, deadline_ms, cached)
            if accepted is None:
                passed_over.add(beat.fingerprint)
                continue
            prefill = WorkerStart(Role.PREFILL, accepted.worker, accepted.boot)
            self._affinity.note(names, prefill, WorkerStart(Role.DECODE, beat.worker, grant.boot))
            return Placement(
                prefill=accepted.worker,
                decode=beat.worker,
                arithmetic=beat.arithmetic,
                fingerprint=beat.fingerprint,
                prefill_boot=accepted.boot,
                decode_boot=grant.boot,
            )
        return None

    def _check_fleet(self, request: PlaceRequest, capacity_tokens: int) -> None:
        model = request.model
        if not self._fleet.serves(model, request.fingerprint) and self._fleet.knows(model):
            named = f"{model} {request.fingerprint}".strip()
            raise Unavailable(f"no prefill and decode worker of {named} that pair are ready", retry_after_ms=1000)
        if self._fleet.never_fits(model, capacity_tokens, request.fingerprint):
            raise ContextExceeded(f"no decode worker has KV memory for {capacity_tokens} tokens")

    async def _claim(self, beat: Beat, request: PlaceRequest, deadline_ms: int) -> ClaimGranted | None:
        claim = Claim(
            session=request.session,
            epoch=request.epoch,
            gateway=request.gateway,
            fingerprint=beat.fingerprint,
            prompt_ids=request.prompt_ids,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            deadline_ms=deadline_ms,
            emitted=request.emitted,
            trial=request.trial,
            cache_salt=request.cache_salt,
        )
        given = self._fleet.give_decode(beat, request.session, _capacity_tokens(request))
        try:
            grant = await self._workers.claim(beat.worker, claim)
        except BatonError as error:
            self._fleet.refused(given)
            self._refused(Role.DECODE, beat.worker, request, error)
            return None
        except BaseException:
            self._fleet.refused(given)
            self._give_back(Role.DECODE, beat.worker, request)
            raise
        self._fleet.answered(given, grant.boot, grant.beat)
        return grant

    async def _run(
        self, decode: Beat, grant: ClaimGranted, request: PlaceRequest, deadline_ms: int, cached: Cached
    ) -> RunAccepted | None:
        """What the prefill that took the run says; None when none did, and the claim is given back."""
        order = _order(decode, grant, request, deadline_ms)
        accepted: RunAccepted | None = None
        try:
            prefills = self._fleet.prefills(request.model, _prompt_tokens(request), decode.fingerprint, cached)
            for beat in _in_order(request, prefills):
                encoding = first_common(grant.kv_encodings, beat.kv_encodings)
                order = msgspec.structs.replace(order, kv_encoding=encoding)
                new_tokens = _prompt_tokens(request) - cached.get(start_of(beat), 0)
                accepted = await self._try_run(beat, order, request, new_tokens)
                if accepted is not None:
                    return accepted
            return None
        finally:
            if accepted is None:
                self._give_back(Role.DECODE, decode.worker, request)

    async def _try_run(
        self, beat: Beat, order: RunPrefill, request: PlaceRequest, new_tokens: int
    ) -> RunAccepted | None:
        given = self._fleet.give_prefill(beat, request.session, new_tokens)
        try:
            accepted = await self._workers.run(beat.worker, order)
        except BatonError as error:
            self._fleet.refused(given)
            self._refused(Role.PREFILL, beat.worker, request, error)
            return None
        except BaseException:
            self._fleet.refused(given)
            self._give_back(Role.PREFILL, beat.worker, request)
            raise
        self._fleet.answered(given, accepted.boot, accepted.beat)
        return accepted

    def _refused(self, role: Role, worker: str, request: PlaceRequest, error: BatonError) -> None:
        """Pass over a worker that has no room or does not answer; raise what no other worker would judge otherwise.

        One whose answer did not come, or cannot be read, may hold the session: it is told to forget it.
        """
        if isinstance(error, DeadlineExceeded | ProtocolError):
            self._give_back(role, worker, request)
        if not error.retryable and not isinstance(error, DeadlineExceeded | UnsupportedModel):
            raise error
        logger.debug("%s %s refused: %s", role.value, worker, error, extra={"session": request.session})

    def _give_back(self, role: Role, worker: str, request: PlaceRequest) -> None:
        self._workers.cancel(role, worker, Cancel(session=request.session, epoch=request.epoch, fence=False))


def _of_one_model(request: PlaceRequest, decodes: list[Beat]) -> list[Beat]:
    """Those that may go on with a session's tokens: another model's would not be the same answer."""
    return [beat for beat in decodes if request.fingerprint in ("", beat.fingerprint)]


def _of_one_tokenizer(request: PlaceRequest, decodes: list[Beat]) -> list[Beat]:
    """Those that read token ids as the gateway does. Raises Unavailable when all others would take them for others."""
    alike = [beat for beat in decodes if not beat.parts.tokenizer or request.tokenizer in ("", beat.parts.tokenizer)]
    if decodes and not alike:
        reason = f"no worker of {request.model} has the tokenizer of gateway {request.gateway}"
        raise Unavailable(reason, retry_after_ms=1000)
    return alike


def _in_order(request: PlaceRequest, beats: list[Beat]) -> list[Beat]:
    """Those to avoid last; a session with tokens already goes where they come out the same, if it can."""
    moves = bool(request.emitted and request.arithmetic)
    return sorted(
        beats, key=lambda beat: (beat.worker in request.avoid, moves and beat.arithmetic != request.arithmetic)
    )


def first_common(wanted: Sequence[str], possible: Sequence[str]) -> str:
    """How the pair's cells travel: exact, if it has nothing else in common. Names mean nothing to a scheduler."""
    return next((name for name in wanted if name in possible), KvEncoding.EXACT.value)


def _prompt_tokens(request: PlaceRequest) -> int:
    return len(request.prompt_ids) // ID_BYTES


def _capacity_tokens(request: PlaceRequest) -> int:
    return _prompt_tokens(request) + request.max_tokens - request.emitted


def _order(decode: Beat, grant: ClaimGranted, request: PlaceRequest, deadline_ms: int) -> RunPrefill:
    return RunPrefill(
        session=request.session,
        epoch=request.epoch,
        gateway=request.gateway,
        fingerprint=decode.fingerprint,
        prompt_ids=request.prompt_ids,
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        deadline_ms=deadline_ms,
        decode=decode.worker,
        transfer=grant.transfer,
        credit_bytes=grant.credit_bytes,
        cached_tokens=grant.cached_tokens,
        emitted=request.emitted,
        begun=request.begun,
        trial=request.trial,
        cache_salt=request.cache_salt,
    )
