"""The load: a steady rate of requests, each with a client of its own, and bursts."""

from __future__ import annotations

import asyncio

from benchmarks.soak.answers import Expected
from benchmarks.soak.client import Client, World
from benchmarks.soak.record import Record
from benchmarks.soak.request import LoadRequest, RequestMaker
from shared.runtime.tasks import Tasks

MOST_AT_ONCE = 200


class Load:
    """Asks `maker`'s requests of the gateways. `records` are those of all streams but the slow readers'."""

    def __init__(self, world: World, maker: RequestMaker, expected: Expected, tasks: Tasks) -> None:
        self.records: list[Record] = []
        self._world = world
        self._maker = maker
        self._expected = expected
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, rate_per_s: float) -> None:
        """Task body: until it is cancelled."""
        while True:
            if len(self._running) < MOST_AT_ONCE:
                self._start(self._maker.next())
            await asyncio.sleep(self._world.dice.expovariate(rate_per_s))

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
        answer = self._expected.ids(request.question)
        self._maker.remember(request.question, answer)
        client = Client(request, self._expected.shown(answer, request.door), self._world)
        await client.run()
        if not request.pause_s:
            self.records += client.records
