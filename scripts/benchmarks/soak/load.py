"""The clients: a steady rate of requests, each asked again where a client would, each stream held to its tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import msgspec

from benchmarks.soak.answers import Expected
from benchmarks.soak.diary import Diary
from benchmarks.soak.ends import Failed, Lost, Refused
from benchmarks.soak.fleet import Fleet
from benchmarks.soak.record import Record
from benchmarks.soak.request import Door, LoadRequest, RequestMaker
from shared.runtime.tasks import Tasks

PATIENCE_S = 90.0
ATTEMPT_S = 75.0
MOST_AT_ONCE = 200


class AskDoor(Protocol):
    """A door's client."""

    async def ask(self, url: str, request: LoadRequest, record: Record) -> None: ...


class Tally(msgspec.Struct, kw_only=True):
    """`lost` were lost with their gateway or the client's own connection, and asked again, as were the `refused`."""

    requests: int = 0
    finished: int = 0
    left: int = 0
    refused: int = 0
    lost: int = 0
    failed: int = 0
    tokens: int = 0
    token_errors: int = 0
    troubles: Counter[str] = msgspec.field(default_factory=Counter)


class Load:
    """Asks `maker`'s requests of the gateways of `fleet`. `records` are those of all attempts but the slow readers'."""

    def __init__(
        self,
        fleet: Fleet,
        maker: RequestMaker,
        expected: Expected,
        doors: Mapping[Door, AskDoor],
        *,
        tasks: Tasks,
        diary: Diary,
        seed: int,
    ) -> None:
        self.tally = Tally()
        self.records: list[Record] = []
        self._fleet = fleet
        self._maker = maker
        self._expected = expected
        self._doors = doors
        self._tasks = tasks
        self._diary = diary
        self._dice = random.Random(f"{seed} gateways")
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, rate_per_s: float) -> None:
        """Task body: until it is cancelled."""
        while True:
            if len(self._running) < MOST_AT_ONCE:
                self._start(self._maker.next())
            await asyncio.sleep(self._dice.expovariate(rate_per_s))

    def burst(self) -> None:
        """More at once than there is room for."""
        for request in self._maker.burst():
            self._start(request)

    async def settle(self) -> None:
        """Wait until all that was asked has been answered."""
        while self._running:
            await asyncio.wait(self._running)

    def _start(self, request: LoadRequest) -> None:
        task = self._tasks.start(self._serve(request), name="request")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _serve(self, request: LoadRequest) -> None:
        self.tally.requests += 1
        answer = self._expected.ids(request.question)
        self._maker.remember(request.question, answer)
        tokens = self._expected.shown(answer, request.door)
        give_up_s = time.monotonic() + PATIENCE_S
        gateway = self._dice.choice(list(self._fleet.http_urls))
        while True:
            record = Record(tokens, request.cancel_at)
            try:
                await self._attempt(gateway, request, record)
            except (Refused, Lost, Failed) as error:
                pause_s = self._pause_s(error, request, gateway, record)
            else:
                self._count_end(record)
                return
            finally:
                self._count(record, request)
            if pause_s is None or time.monotonic() + pause_s > give_up_s:
                self.tally.failed += 1
                if pause_s is not None:
                    self._trouble(request, record, "gave up: refused or lost for too long")
                return
            await asyncio.sleep(pause_s)
            gateway = self._dice.choice(list(self._fleet.http_urls))

    async def _attempt(self, gateway: str, request: LoadRequest, record: Record) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self._doors[request.door].ask(self._fleet.http_urls[gateway], request, record)
        except TimeoutError:
            raise Failed(f"no end within {ATTEMPT_S:.0f} s") from None

    def _pause_s(self, error: Exception, request: LoadRequest, gateway: str, record: Record) -> float | None:
        """How long to wait before the same request is asked again; None when it has failed for good."""
        if isinstance(error, Refused):
            self.tally.refused += 1
            return error.retry_after_s * self._dice.uniform(1.0, 1.5)
        if isinstance(error, Lost) and self._fleet.explains_loss(request.door, gateway, record.started_s):
            self.tally.lost += 1
            self._diary.note(f"{request.door} {record.session} lost with {gateway}, as it must: {error}")
            return self._dice.uniform(0.1, 0.5)
        self._trouble(request, record, f"{type(error).__name__.lower()}: {error}")
        return None

    def _count_end(self, record: Record) -> None:
        if record.wants_to_leave:
            self.tally.left += 1
        else:
            self.tally.finished += 1

    def _count(self, record: Record, request: LoadRequest) -> None:
        self.tally.tokens += len(record.tokens)
        self.tally.token_errors += record.token_errors
        if record.token_errors:
            self._trouble(request, record, f"{record.token_errors} token errors: {record.first_error}")
        if not request.pause_s:
            self.records.append(record)
        self._diary.note_pauses(f"{request.door} {record.session}", record.moments_s)

    def _trouble(self, request: LoadRequest, record: Record, what: str) -> None:
        self.tally.troubles[f"{request.door}: {what}"] += 1
        self._diary.note(f"{request.door} {record.session}, token {len(record.tokens)}: {what}")
