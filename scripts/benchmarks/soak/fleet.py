"""The fleet under test: NATS and all services as processes, workers behind proxies. Starts, breaks, mends and stops."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.soak.ears import Ears
from benchmarks.soak.part import Part
from benchmarks.soak.plan import WORKERS, Plan
from benchmarks.soak.proxy import CuttingProxy
from benchmarks.soak.request import Door
from services.local import nats_server
from services.local.free_port import port_or_free
from services.local.health import until_healthy
from services.local.members import Member
from services.local.output import Output
from shared.core import Role
from shared.runtime.process_settings import EngineKind
from shared.runtime.tasks import Tasks

LOOPBACK = "127.0.0.1"
NATS = "nats-server"
NATS_OUTAGE_S = 2.0
NATS_REST_S = 10.0
LOSS_SHOWS_S = 12.0
RESTART_S = 0.5
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
PACE = {
    EngineKind.FAKE: {
        "BATON_PREFILL_FAKE_PREFILL_TOKEN_S": "0.0005",
        "BATON_DECODE_FAKE_STEP_S": "0.01",
        "BATON_PREFILL_CHUNK_TOKENS": "64",
        "BATON_PREFILL_KV_BYTES": "1MiB",
        "BATON_DECODE_KV_BYTES": "1MiB",
    },
    EngineKind.TORCH: {"BATON_DECODE_KV_BYTES": "64MiB", "BATON_PREFILL_KV_BYTES": "64MiB"},
}
# Faults come far more often than in life; one request may meet several.
PATIENCE = {
    "BATON_GATEWAY_RESUME_GRACE_S": "10",
    "BATON_GATEWAY_ATTEMPTS": "16",
    "BATON_GATEWAY_REQUEST_TIMEOUT_S": "60",
}


class Fleet:
    """`parts` by name. `http_urls` are those of the gateways, by name."""

    def __init__(self, plan: Plan, log_dir: Path, environ: Mapping[str, str], tasks: Tasks) -> None:
        self._plan = plan
        self._folder = log_dir
        self._environ = {**PACE[plan.engine], **PATIENCE, **environ}
        self._tasks = tasks
        self._output = Output(str(log_dir), print)
        self._port = port_or_free(LOOPBACK, 0)
        self._monitor_port = port_or_free(LOOPBACK, 0)
        self.nats_url = f"nats://{LOOPBACK}:{self._port}"
        self.monitor_url = f"http://{LOOPBACK}:{self._monitor_port}"
        self.parts: dict[str, Part] = {}
        self.proxies: dict[str, CuttingProxy] = {}
        self.http_urls: dict[str, str] = {}
        self.ears = Ears(tasks)

    async def start(self) -> None:
        """Return when every process is ready. Raises TimeoutError."""
        await self._start_nats()
        for member in await self._members():
            self._keep(member.name, partial(_command, member), RESTART_S)
        async with asyncio.timeout(START_TIMEOUT_S):
            await self.ears.until(lambda: all(self.ready(name) for name in self.services))
        for url in self.http_urls.values():
            await until_healthy(url, START_TIMEOUT_S)
        self._tasks.start(self._measure(), name="measure")

    async def stop(self) -> None:
        """End all processes, NATS last, and leave none. Idempotent."""
        await asyncio.gather(*(self.parts[name].stop(STOP_TIMEOUT_S) for name in self.services))
        await self.ears.close()
        if NATS in self.parts:
            await self.parts[NATS].stop(STOP_TIMEOUT_S)
        for proxy in self.proxies.values():
            proxy.close()
        self._output.close()

    @property
    def services(self) -> list[str]:
        """The names of all parts but NATS."""
        return [name for name in self.parts if name != NATS]

    def of(self, role: Role) -> list[str]:
        """The names of the parts of one role."""
        return [f"{role.value}-{number}" for number in range(self._plan.count(role))]

    def ready(self, name: str) -> bool:
        """Whether it runs and has said since it was last broken or mended that it takes work."""
        part = self.parts[name]
        return part.runs and not part.frozen and self.ears.ready_since(name, part.changed_s)

    def whole(self, name: str) -> bool:
        """Whether it may be broken: `ready`, or NATS that has been there for a while."""
        if name != NATS:
            return self.ready(name)
        return self.parts[NATS].runs and time.monotonic() - self.parts[NATS].changed_s > NATS_REST_S

    def explains_loss(self, door: Door, gateway: str, since_s: float) -> bool:
        """Whether a stream of `gateway` that began at `since_s` had to be lost.

        It dies with its gateway; on NATS also with the client's own connection, and as gateways there are anonymous and
        one that is silent counts as gone, with any that was broken.
        """
        if door is not Door.NATS:
            return self.parts[gateway].killed_s >= since_s
        suspects = [NATS, *self.http_urls]
        return any(self.parts[name].broken_s >= since_s - LOSS_SHOWS_S for name in suspects)

    def stops(self, gateway: str, since_s: float) -> bool:
        """Whether it has ended since, or is about to: it was asked to."""
        part = self.parts[gateway]
        return part.changed_s >= since_s or (part.stop_asked and not part.frozen)

    def explains_oblivion(self, since_s: float) -> bool:
        """Whether the journal of a session that began at `since_s` may be lost: with NATS, and with its gateway."""
        return self.parts[NATS].broken_s >= since_s and any(
            self.parts[name].killed_s >= since_s for name in self.http_urls
        )

    def measure(self) -> None:
        """Take note of the memory of all."""
        for part in self.parts.values():
            part.measure()

    async def _measure(self) -> None:
        while True:
            self.measure()
            await asyncio.sleep(1.0)

    async def _start_nats(self) -> None:
        command = [*nats_server.command(self._folder, self._port), "-m", str(self._monitor_port)]
        self._keep(NATS, lambda: command, NATS_OUTAGE_S)
        await self.ears.open(self.nats_url)

    async def _members(self) -> list[Member]:
        cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
        members = []
        for role in Role:
            for name in self.of(role):
                arguments = ["--id", name, "--nats", await self._nats_for(role, name)]
                if role is Role.GATEWAY:
                    arguments += ["--port", str(self._http_port(name))]
                if role in WORKERS:
                    arguments += ["--engine", self._plan.engine.value, "--cores", str(next(cores))]
                members.append(Member(name, role, tuple(arguments)))
        return members

    def _http_port(self, name: str) -> int:
        port = port_or_free(LOOPBACK, 0)
        self.http_urls[name] = f"http://{LOOPBACK}:{port}"
        return port

    async def _nats_for(self, role: Role, name: str) -> str:
        if role not in WORKERS:
            return self.nats_url
        proxy = self.proxies[name] = CuttingProxy(self._port, self._tasks)
        await proxy.start()
        return f"nats://{LOOPBACK}:{proxy.port}"

    def _keep(self, name: str, command: Callable[[], Sequence[str]], restart_s: float) -> None:
        part = self.parts[name] = Part(
            name,
            command,
            environ=self._environ,
            on_line=self._output.of(name),
            tasks=self._tasks,
            restart_s=restart_s,
        )
        self._tasks.start(part.run(), name=f"run {name}")


def _command(member: Member) -> list[str]:
    return member.command
