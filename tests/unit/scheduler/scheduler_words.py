"""Beats, requests and scripted workers for the scheduler's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from services.scheduler.fleet import Fleet
from services.scheduler.placer import Placement
from shared.core import Role, SamplingParams
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_decode import Cancel, Claim, ClaimGranted
from shared.protocol.to_prefill import RunAccepted, RunPrefill
from shared.protocol.to_scheduler import PlaceRequest
from shared.protocol.wire import pack_ids

MODEL = "m"
FINGERPRINT = "0123456789abcdef"
PROMPT_TOKENS = 10
MAX_TOKENS = 30
CAPACITY_TOKENS = PROMPT_TOKENS + MAX_TOKENS


def decode_beat(worker: str, **changes: object) -> Beat:
    """A decode worker with room for 10 sessions of `CAPACITY_TOKENS`."""
    beat = Beat(
        worker=worker,
        role=Role.DECODE,
        boot="",
        state=WorkerState.READY,
        interval_ms=1000,
        number=1,
        model=MODEL,
        fingerprint=FINGERPRINT,
        kv_token_bytes=1,
        kv_total_bytes=10 * CAPACITY_TOKENS,
        kv_free_bytes=10 * CAPACITY_TOKENS,
        session_limit=10,
    )
    return msgspec.structs.replace(beat, **changes)


def prefill_beat(worker: str, **changes: object) -> Beat:
    beat = Beat(
        worker=worker,
        role=Role.PREFILL,
        boot="",
        state=WorkerState.READY,
        interval_ms=1000,
        number=1,
        model=MODEL,
        fingerprint=FINGERPRINT,
        queue_limit_tokens=1000,
    )
    return msgspec.structs.replace(beat, **changes)


def request(number: int = 0, **changes: object) -> PlaceRequest:
    found = PlaceRequest(
        session=f"{number:032x}",
        epoch=0,
        gateway="g0",
        model=MODEL,
        prompt_ids=pack_ids(range(PROMPT_TOKENS)),
        max_tokens=MAX_TOKENS,
        sampling=SamplingParams(),
        deadline_ms=20_000,
    )
    return msgspec.structs.replace(found, **changes)


def placement(*, prefill: str, decode: str, **changes: str) -> Placement:
    """Of a request for `MODEL`."""
    return Placement(prefill=prefill, decode=decode, **{"fingerprint": FINGERPRINT, **changes})


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def fleet_of(*beats: Beat, clock: Callable[[], float] | None = None) -> Fleet:
    fleet = Fleet(clock or Clock())
    for beat in beats:
        fleet.hear(beat)
    return fleet


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


class ScriptedWorkers:
    """Answers as scripted, yes by default; remembers what it was asked and what it holds.

    An answer is an error to raise, or an event to wait for before the yes.
    """

    def __init__(self) -> None:
        self.boot = ""
        self.beat = 1
        self.kv_encodings: tuple[str, ...] = ("exact",)
        self.answers: dict[str, list[Exception | asyncio.Event | None]] = {}
        self.asked: list[str] = []
        self.claims: list[Claim] = []
        self.runs: list[RunPrefill] = []
        self.cancels: list[tuple[Role, str, Cancel]] = []
        self.holding: set[str] = set()
        self.was_asked = asyncio.Event()

    async def claim(self, worker: str, claim: Claim) -> ClaimGranted:
        self.claims.append(claim)
        await self._answer(worker)
        return ClaimGranted(
            session=claim.session,
            epoch=claim.epoch,
            worker=worker,
            transfer=5,
            credit_bytes=4096,
            cached_tokens=2,
            kv_encodings=self.kv_encodings,
            boot=self.boot,
            beat=self.beat,
        )

    async def run(self, worker: str, run: RunPrefill) -> RunAccepted:
        self.runs.append(run)
        await self._answer(worker)
        return RunAccepted(
            session=run.session, epoch=run.epoch, worker=worker, queued_tokens=0, boot=self.boot, beat=self.beat
        )

    def cancel(self, role: Role, worker: str, cancel: Cancel) -> None:
        self.cancels.append((role, worker, cancel))
        self.holding.discard(worker)

    async def _answer(self, worker: str) -> None:
        self.asked.append(worker)
        self.was_asked.set()
        script = self.answers.get(worker)
        answer = script.pop(0) if script else None
        if isinstance(answer, Exception):
            raise answer
        self.holding.add(worker)
        if answer is not None:
            await answer.wait()
