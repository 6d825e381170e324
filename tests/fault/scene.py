"""A fleet of real processes with the fake engine, its clients, and the hand that breaks it.

The fake engine is deterministic, so what a disturbed stream must say is computed here, without the fleet.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import nats
import psutil
import pytest
from beats import Beat, BeatWatch, is_idle
from nats.aio.client import Client
from nats.aio.msg import Msg
from stack import Stack, running_stack
from streams import Stream, streaming

from services.local.health import until_healthy
from shared.core import SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.fake import FakeEngine, fake_spec
from shared.models.facts import read_model_facts

STEP_S = 0.01
PREFILL_TOKEN_S = 0.002
CHUNK_TOKENS = 64
REST_WITHIN_S = 30.0
OVERHEARD = (
    "baton.v1.scheduler.place",
    "baton.v1.decode.*.claim",
    "baton.v1.prefill.*.run",
    "baton.v1.kv.*.*.chunk",
    "baton.v1.tokens.*",
)
PACE = {
    "FAKE_STEP_S": str(STEP_S),
    "FAKE_PREFILL_TOKEN_S": str(PREFILL_TOKEN_S),
    "PREFILL_CHUNK_TOKENS": str(CHUNK_TOKENS),
}


class Scene:
    """What a test of one fault needs. Build with `scene`."""

    def __init__(self, stack: Stack, client: Client, beats: BeatWatch, model_folder: Path) -> None:
        self.stack = stack
        self.client = client
        self.beats = beats
        self._model_folder = model_folder
        self._overheard: list[Msg] = []
        self._overhearing = asyncio.Condition()
        self._names = {_name(child) for child in psutil.Process(stack.pid).children()} - {""}
        self._killed: dict[str, str] = {}

    def request(self, tokens: int, max_tokens: int, seed: int = 1, **parameters: Any) -> dict[str, Any]:
        """A request whose prompt has `tokens` tokens, another one for every `seed`."""
        return {"prompt": [(seed * 7919 + place * 31) % 1000 for place in range(tokens)], "max_tokens": max_tokens} | (
            parameters
        )

    def undisturbed(self, request: dict[str, Any]) -> list[int]:
        """What the fake engine answers to `request` when nothing happens."""
        facts = read_model_facts(self._model_folder)
        engine = FakeEngine(fake_spec("fake", facts.vocab_size, facts.context_tokens), 1 << 30)
        prompt, tokens = request["prompt"], request["max_tokens"]
        engine.open(
            SequenceSpec(
                key="a",
                prompt_ids=prompt,
                sampling=SamplingParams(temperature=0.0),
                capacity_tokens=len(prompt) + tokens,
            )
        )
        first = engine.prefill([PrefillSlice("a", 0, len(prompt))])[0]
        assert first is not None
        return [first.token_id, *(engine.step(["a"])[0].token_id for _ in range(tokens - 1))]

    @asynccontextmanager
    async def streams(self, *requests: dict[str, Any]) -> AsyncIterator[list[Stream]]:
        """All of `requests` at once. Each must come to its end with the tokens of an undisturbed run."""
        async with streaming(self.stack.http_url, *requests) as streams:
            yield streams
            for request, stream in zip(requests, streams, strict=True):
                assert await stream.whole() == self.undisturbed(request)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal to the process called `name`. Returns when."""
        if number is signal.SIGKILL:
            self._killed[name] = self.beats.last[name]["boot"]
        self.stack.process(name).send_signal(number)
        return time.monotonic()

    async def holder(self, role: str, sessions: int = 1) -> str:
        """The worker of `role` that holds so many sessions, or more, as soon as there is one."""

        def holders() -> list[str]:
            workers = self.beats.workers().items()
            return [name for name, beat in workers if beat["role"] == role and beat["sessions"] >= sessions]

        await self.beats.until(lambda _: bool(holders()))
        return holders()[0]

    async def moves(self) -> float:
        """How many sessions the gateway has placed again after a failure, so far."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.stack.http_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("baton_session_moves_total"))

    async def hear(self, message: Msg) -> None:
        """The callback of the subscriptions to `OVERHEARD`."""
        async with self._overhearing:
            self._overheard.append(message)
            self._overhearing.notify_all()

    async def message(self, subject: str, beyond: int = 0) -> None:
        """Wait until there have been more than `beyond` messages on `subject`, which may have wildcards."""
        async with self._overhearing:
            await self._overhearing.wait_for(lambda: len(self.messages(subject)) > beyond)

    def messages(self, subject: str) -> list[Msg]:
        """All of them so far."""
        return [message for message in self._overheard if fnmatch(message.subject, subject)]

    def orders(self, session: str) -> list[Msg]:
        """What workers have been told to do for `session` so far."""
        told = (*self.messages("baton.v1.decode.*.claim"), *self.messages("baton.v1.prefill.*.run"))
        return [message for message in told if msgpack.unpackb(message.data)["session"] == session]

    async def back(self, name: str) -> None:
        """Wait until the killed process called `name` has been started again."""
        await self.beats.until_all(lambda beats: beats[name]["boot"] != self._killed.get(name))
        await until_healthy(self.stack.http_url, REST_WITHIN_S)

    async def at_rest(self) -> None:
        """Wait until all processes are there (again), no session is left anywhere, and all KV memory is free."""
        async with asyncio.timeout(REST_WITHIN_S):
            await self.beats.until_all(lambda beats: self._names <= beats.keys() and self._all_back(beats))

    def _all_back(self, beats: dict[str, Beat]) -> bool:
        return all(is_idle(beat) and beat["boot"] != self._killed.get(name) for name, beat in beats.items())


@asynccontextmanager
async def scene_of(stack: Stack, model_folder: Path) -> AsyncIterator[Scene]:
    """A scene at rest, and at rest again after the test."""
    client = await nats.connect(
        stack.nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore, ping_interval=5
    )
    beats = BeatWatch()
    await client.subscribe("baton.v1.beat.>", cb=beats.hear)
    scene = Scene(stack, client, beats, model_folder)
    for subject in OVERHEARD:
        await client.subscribe(subject, cb=scene.hear)
    await client.flush()
    await scene.at_rest()
    yield scene
    await scene.at_rest()
    await client.close()


@contextmanager
def fleet(log_dir: Path, *arguments: str, **settings: str) -> Iterator[Stack]:
    """`baton up` with the fake engine; `settings` are environment variables without their `BATON_`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**PACE, **settings}.items():
            patch.setenv(f"BATON_{name}", value)
        with running_stack(log_dir, "--engine", "fake", *arguments) as stack:
            yield stack


async def _ignore(_error: Exception) -> None:
    """The connection's troubles are the test's doing."""


def _name(process: psutil.Process) -> str:
    """Which service a child of `baton up` is; empty for its NATS server."""
    words = process.cmdline()
    return words[words.index("--id") + 1] if "--id" in words else ""
