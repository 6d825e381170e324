"""Workers come, stop and vanish all the time while clients come and leave: every answer is whole and right."""

from __future__ import annotations

import asyncio
import random

from shared.core import SamplingParams
from shared.runtime.tasks import Tasks

from .conftest import MakeFleet
from .engines import engine
from .fleet import Fleet, colocated, token_ids
from .prompts import prompt

CLIENTS = 150
AT_ONCE = 30
CLIENTS_PER_CHANGE = 12


class Churn:
    """Replaces a worker after every so many answers."""

    def __init__(self, fleet: Fleet, dice: random.Random) -> None:
        self._fleet = fleet
        self._dice = dice
        self._answers = asyncio.Semaphore(0)
        self._started = 0

    def answered(self) -> None:
        self._answers.release()

    async def run(self) -> None:
        """Task body: ends with the last answers."""
        for _ in range(CLIENTS // CLIENTS_PER_CHANGE):
            for _ in range(CLIENTS_PER_CHANGE):
                await self._answers.acquire()
            await self._replace(self._dice.choice("pd"))

    async def _replace(self, phase: str) -> None:
        self._started += 1
        old = self._dice.choice([worker for worker in self._fleet.workers if worker.startswith(phase)])
        start = self._fleet.start_prefill if phase == "p" else self._fleet.start_decode
        await start(f"{phase}-new{self._started}")
        await (self._fleet.lose_worker(old) if self._dice.random() < 0.3 else self._fleet.stop_worker(old))


async def test_every_answer_is_whole_and_right_whatever_workers_do(make_fleet: MakeFleet, clients: Tasks):
    dice = random.Random(3)
    fleet = await make_fleet(
        make_prefill=lambda: engine(prefill_token_s=0.00005),
        make_decode=lambda: engine(step_s=0.001, kv_tokens=6000),
        schedulers=2,
        prefills=3,
        decodes=3,
        attempts=50,
        chunk_tokens=40,
        chunk_bytes=2048,
        window_bytes=16384,
        queue_limit=CLIENTS,
    )
    churn = Churn(fleet, dice)
    seats = asyncio.Semaphore(AT_ONCE)

    async def client(number: int) -> bool:
        prompt_ids = prompt(dice.choice([1, 5, 40, 100, 300, 700]), number)
        max_tokens = dice.choice([1, 2, 20, 100])
        sampling = SamplingParams(temperature=dice.choice([0.0, 1.0]), seed=number)
        leaves_after = dice.choice([1, 10, 1000, 1000])
        ids: list[int] = []
        async with seats, fleet.sessions.generate(fleet.generating(prompt_ids, max_tokens, sampling)) as generation:
            async for delta in generation:
                ids += token_ids([delta])
                if len(ids) > leaves_after:
                    break
        churn.answered()
        expected, _ = colocated(engine(), prompt_ids, max_tokens, sampling)
        return ids == expected or (len(ids) > leaves_after and ids == expected[: len(ids)])

    changing = clients.start(churn.run(), name="churn")
    assert all(await asyncio.gather(*(client(number) for number in range(CLIENTS))))
    await changing
