"""One request from its first question to its end, however often it must be asked again, as a good client would."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from benchmarks.soak.diary import Diary
from benchmarks.soak.ends import Failed, Forgotten, Hopped, Lost, Refused, Unanswered
from benchmarks.soak.fleet import Fleet
from benchmarks.soak.record import Record, Token
from benchmarks.soak.request import Door, LoadRequest

PATIENCE_S = 90.0
ATTEMPT_S = 75.0


class AskDoor(Protocol):
    """A door's client. Raises Refused, Lost and Failed."""

    async def ask(self, url: str, request: LoadRequest, record: Record) -> None: ...


class Tally(msgspec.Struct, kw_only=True):
    """`lost` streams ended with their gateway or the client's own connection; those and the `refused` are asked again.

    `resumed` ones went on from where they were.
    """

    requests: int = 0
    finished: int = 0
    left: int = 0
    refused: int = 0
    resumed: int = 0
    lost: int = 0
    failed: int = 0
    tokens: int = 0
    token_errors: int = 0
    troubles: Counter[str] = msgspec.field(default_factory=Counter)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What all clients share."""

    fleet: Fleet
    doors: Mapping[Door, AskDoor]
    tally: Tally
    diary: Diary
    dice: random.Random


class Client:
    """Asks `request`, whose door must show `tokens`. `records` has one for each time it began anew."""

    def __init__(self, request: LoadRequest, tokens: Sequence[Token], world: World) -> None:
        self.records: list[Record] = []
        self._request = request
        self._tokens = tokens
        self._fleet = world.fleet
        self._door = world.doors[request.door]
        self._tally = world.tally
        self._diary = world.diary
        self._dice = world.dice
        self._gateway = ""
        self._asked_s = 0.0

    async def run(self) -> None:
        """To the end."""
        give_up_s = time.monotonic() + PATIENCE_S
        self._tally.requests += 1
        self._begin()
        while True:
            try:
                await self._ask()
            except (Refused, Lost, Failed) as error:
                pause_s = self._pause_s(error)
            else:
                self._ended_well()
                break
            if pause_s is None or time.monotonic() + pause_s > give_up_s:
                self._tally.failed += 1
                if pause_s is not None:
                    self._trouble("gave up: refused or lost for too long")
                break
            await asyncio.sleep(pause_s)
        self._check()

    @property
    def _record(self) -> Record:
        return self.records[-1]

    def _begin(self) -> None:
        """From the first token on, as if nothing had been asked yet."""
        if self.records:
            self._check()
        self.records.append(Record(self._tokens, cancel_at=self._request.cancel_at, hop_at=self._request.hop_at))

    async def _ask(self) -> None:
        self._gateway = self._dice.choice(list(self._fleet.http_urls))
        self._asked_s = time.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_S):
                await self._door.ask(self._fleet.http_urls[self._gateway], self._request, self._record)
        except TimeoutError:
            raise Failed(f"no end within {ATTEMPT_S:.0f} s") from None

    def _pause_s(self, error: Refused | Lost | Failed) -> float | None:
        """How long to wait before it is asked again, or for the rest; None when it has failed for good."""
        match error:
            case Refused():
                self._tally.refused += 1
                self._go_on_or_begin(can_go_on=self._record.begun)
                return error.retry_after_s * self._dice.uniform(1.0, 1.5)
            case Hopped():
                self._go_on_or_begin(can_go_on=True)
                return 0.0
            case Unanswered() if self._fleet.stops(self._gateway, self._asked_s):
                self._tally.refused += 1
                return self._dice.uniform(0.1, 0.5)
            case Lost() if self._fleet.explains_loss(self._request.door, self._gateway, self._asked_s):
                self._diary.note(f"{self._name} lost with {self._gateway}, as it must: {error}")
                self._go_on_or_begin(can_go_on=True)
                return self._dice.uniform(0.1, 0.5)
            case Forgotten() if self._fleet.explains_oblivion(self._record.started_s):
                self._diary.note(f"{self._name} forgotten with NATS and a gateway: {error}")
                self._tally.lost += 1
                self._begin()
                return self._dice.uniform(0.1, 0.5)
        self._trouble(f"{type(error).__name__.lower()}: {error}")
        return None

    def _go_on_or_begin(self, *, can_go_on: bool) -> None:
        if can_go_on and self._request.resumable and self._record.session:
            self._tally.resumed += 1
            self._record.resumes = True
            return
        self._tally.lost += self._record.begun
        self._begin()

    def _ended_well(self) -> None:
        if self._record.wants_to_leave:
            self._tally.left += 1
        else:
            self._tally.finished += 1

    def _check(self) -> None:
        """Count what has come since the stream began."""
        record = self._record
        self._tally.tokens += len(record.tokens)
        self._tally.token_errors += record.token_errors
        if record.token_errors:
            self._trouble(f"{record.token_errors} token errors: {record.first_error}")
        self._diary.note_pauses(self._name, record.moments_s)

    @property
    def _name(self) -> str:
        return f"{self._request.door} {self._record.session}"

    def _trouble(self, what: str) -> None:
        self._tally.troubles[f"{self._request.door}: {what}"] += 1
        self._diary.note(f"{self._name}, token {len(self._record.tokens)}: {what}")
