"""One soak from the first process to the last: fleet, load, faults, rest, result."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.soak.answers import Answers, ComputedAnswers, Expected, ReferenceAnswers
from benchmarks.soak.chaos import Chaos
from benchmarks.soak.client import AskDoor, Tally, World
from benchmarks.soak.diary import Diary
from benchmarks.soak.door_nats import NatsDoor
from benchmarks.soak.door_sse import SseDoor
from benchmarks.soak.door_websocket import WebSocketDoor
from benchmarks.soak.fleet import Fleet
from benchmarks.soak.load import Load
from benchmarks.soak.pauses import Pauses, pauses_by_kind
from benchmarks.soak.plan import Plan, schedule
from benchmarks.soak.request import SHAPES, Door, RequestMaker
from benchmarks.soak.rest import Rest, rest_of, tracebacks
from shared.runtime.process_settings import EngineKind
from shared.runtime.tasks import Tasks
from shared.text.tokenizer import Tokenizer


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All that a soak has found out."""

    duration_s: float
    tally: Tally
    pauses: dict[str, Pauses]
    skipped: dict[str, int]
    rest: Rest
    peak_rss_bytes: dict[str, int]
    unasked_ends: list[str]
    tracebacks: Counter[str]

    @property
    def good(self) -> bool:
        tally = self.tally
        return not (tally.failed or tally.token_errors or self.unasked_ends or self.tracebacks) and self.rest.clean


class Soak:
    """Use `run` once. `cut_short` ends the load early. `report` gets sentences for a person."""

    def __init__(
        self, plan: Plan, model: Path, log_dir: Path, environ: Mapping[str, str], report: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._model = model
        self._log_dir = log_dir
        self._environ = environ
        self._report = report
        self._over = asyncio.Event()
        self._failure: BaseException | None = None

    def cut_short(self) -> None:
        self._over.set()

    async def run(self) -> Result:
        """Raises what broke the soak itself; whatever happens, no process is left."""
        async with Tasks("soak", self._failed) as tasks:
            fleet = Fleet(self._plan, self._log_dir, self._environ, tasks)
            try:
                await fleet.start()
                return await self._loaded(fleet, tasks)
            finally:
                await fleet.stop()

    async def _loaded(self, fleet: Fleet, tasks: Tasks) -> Result:
        nats_door = NatsDoor()
        await nats_door.open(fleet.nats_url)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            websocket_door = WebSocketDoor(http)
            doors: dict[Door, AskDoor] = {Door.SSE: SseDoor(http), Door.WEBSOCKET: websocket_door, Door.NATS: nats_door}
            maker = RequestMaker(SHAPES[self._plan.engine], self._plan.seed)
            answers = await self._answers(fleet, maker, websocket_door)
            expected = Expected(answers, Tokenizer.load(self._model))
            diary = Diary(self._log_dir)
            dice = random.Random(f"{self._plan.seed} clients")
            world = World(fleet=fleet, doors=doors, tally=Tally(), diary=diary, dice=dice)
            load = Load(world, maker, expected, tasks)
            chaos = Chaos(fleet, load, tasks, diary)
            self._report(f"{len(fleet.services)} services are ready; load and faults begin")
            began_s = time.monotonic()
            await self._disturbed(load, chaos, tasks)
            result = await self._result(world, load, chaos, time.monotonic() - began_s)
            diary.close()
        await nats_door.close()
        return result

    async def _answers(self, fleet: Fleet, maker: RequestMaker, door: WebSocketDoor) -> Answers:
        if self._plan.engine is EngineKind.FAKE:
            return ComputedAnswers(self._model)
        answers = ReferenceAnswers()
        await answers.learn(maker.questions, door, next(iter(fleet.http_urls.values())))
        return answers

    async def _disturbed(self, load: Load, chaos: Chaos, tasks: Tasks) -> None:
        """Load and faults for the planned time; then whatever was asked is still answered."""
        loading = tasks.start(load.run(self._plan.rate_per_s), name="load")
        breaking = tasks.start(chaos.run(schedule(self._plan)), name="chaos")
        try:
            async with asyncio.timeout(self._plan.duration_s):
                await self._over.wait()
        except TimeoutError:
            pass
        loading.cancel()
        breaking.cancel()
        await load.settle()
        if self._failure is not None:
            raise self._failure

    async def _result(self, world: World, load: Load, chaos: Chaos, duration_s: float) -> Result:
        fleet = world.fleet
        rest = await rest_of(fleet)
        fleet.measure()
        parts = fleet.parts.values()
        return Result(
            duration_s=duration_s,
            tally=world.tally,
            pauses=pauses_by_kind(chaos.injuries, load.records),
            skipped=dict(chaos.skipped),
            rest=rest,
            peak_rss_bytes={part.name: part.peak_rss_bytes for part in parts},
            unasked_ends=[end for part in parts for end in part.unasked_ends],
            tracebacks=tracebacks(self._log_dir),
        )

    def _failed(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.cut_short()
