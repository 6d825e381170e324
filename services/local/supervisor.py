"""Runs a whole Baton on this machine: NATS, then the four services at once; restarts what dies; stops all in order.

A `shared.runtime.service.Service`: `baton up` and `baton quickstart` run it.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from services.local import nats_server
from services.local.child import OnLine
from services.local.cores import machine
from services.local.health import until_healthy
from services.local.keeper import Keeper
from services.local.members import Member, members
from services.local.output import Output
from services.local.roll_call import RollCall
from services.local.settings import UpSettings
from shared.bus.connection import Bus
from shared.bus.settings import BusSettings
from shared.core import Role
from shared.errors import BatonError, ProtocolError, Unavailable
from shared.protocol import subjects
from shared.protocol.to_all import Beat
from shared.protocol.wire import decode
from shared.runtime.process import available_cores
from shared.runtime.tasks import Tasks

NATS_NAME = "nats-server"
NATS_START_TIMEOUT_S = 20.0
NATS_CONNECT_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 6.0
# Of a gateway that has drained to the end of its time and still says goodbye; less than `run_local` leaves for it.
FAREWELL_S = 2.0
STOP_NATS_TIMEOUT_S = 3.0

Report = Callable[[str], None]


class Supervisor:
    """`report` gets sentences for a person. `environ` and the file `config` are handed on to the services.

    `when_ready` is called once, when requests can be served.
    """

    def __init__(
        self,
        settings: UpSettings,
        tasks: Tasks,
        *,
        environ: Mapping[str, str],
        report: Report,
        when_ready: Callable[[Supervisor], Awaitable[None]],
        config: str | None = None,
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._environ = environ
        self._report = report
        self._when_ready = when_ready
        self._config = config
        self._output = Output(settings.log_dir, report)
        self._folder = tempfile.TemporaryDirectory(prefix="baton-")
        self._keepers: dict[str, Keeper] = {}
        self._gateways: list[str] = []
        self._bus: Bus | None = None
        self._started_s = time.monotonic()
        self.nats = settings.nats

    @property
    def http_url(self) -> str:
        return f"http://{self._settings.http_host}:{self._settings.http_port}"

    async def start(self) -> None:
        """Return when requests can be served and `when_ready` has returned. Raises what keeps that from being."""
        suffix = f"-{secrets.token_hex(2)}" if self.nats.url else ""
        if not self.nats.url:
            self.nats = msgspec.structs.replace(self.nats, url=await self._start_nats())
        self._bus = bus = await self._connect(self.nats)
        crew = members(self._settings, self.nats, machine(available_cores()), suffix=suffix, config=self._config)
        self._gateways = [member.name for member in crew if member.role is Role.GATEWAY]
        roll_call = RollCall((member.name for member in crew), self._is_ready)
        await bus.listen(subjects.BEATS, lambda _subject, data: _hear(roll_call, data))
        await bus.flush()
        for member in crew:
            self._start_member(member, roll_call)
        await roll_call.complete(self._settings.start_timeout_s)
        await until_healthy(self.http_url, self._settings.start_timeout_s)
        await self._when_ready(self)

    async def drain(self) -> None:
        """Let the gateway finish the running answers; it takes no new ones."""
        keepers = [self._keepers[name] for name in self._gateways if name in self._keepers]
        timeout_s = self._settings.drain_timeout_s + FAREWELL_S
        await asyncio.gather(*(keeper.stop(timeout_s) for keeper in keepers))

    def stuck(self) -> str:
        """Never, as long as its event loop runs."""
        return ""

    async def hand_over(self) -> None:
        """There is nobody to leave anything to."""

    async def stop(self) -> None:
        """End all processes, NATS last. Idempotent."""
        services = [keeper for name, keeper in self._keepers.items() if name != NATS_NAME]
        await asyncio.gather(*(keeper.stop(STOP_TIMEOUT_S) for keeper in services))
        if self._bus is not None:
            await self._bus.close()
        if NATS_NAME in self._keepers:
            await self._keepers[NATS_NAME].stop(STOP_NATS_TIMEOUT_S)
        await self._tasks.close()
        self._output.close()
        self._folder.cleanup()

    async def _start_nats(self) -> str:
        """Start the embedded server; after a restart it has the same port again. Returns its URL."""
        start_up = nats_server.StartUp()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        show = self._output.of(NATS_NAME)

        def on_line(line: str) -> None:
            show(line)
            start_up.read(line)
            if start_up.ready and not ready.done():
                ready.set_result(start_up.url)

        def command() -> list[str]:
            port = start_up.port or self._settings.nats_server_port or nats_server.FREE_PORT
            return nats_server.command(Path(self._folder.name), port)

        keeper = self._keep(NATS_NAME, command, on_line, lambda error: _fail(ready, error))
        try:
            async with asyncio.timeout(NATS_START_TIMEOUT_S):
                url = await ready
        except TimeoutError:
            raise Unavailable(f"{NATS_NAME} was not ready within {NATS_START_TIMEOUT_S:.0f} s") from None
        keeper.is_ready()
        self._report(f"{NATS_NAME} listens on {url}")
        return url

    async def _connect(self, nats: BusSettings) -> Bus:
        try:
            async with asyncio.timeout(NATS_CONNECT_TIMEOUT_S):
                return await Bus.connect(nats, name="baton up", spawn=self._tasks.start)
        except TimeoutError:
            raise Unavailable(f"no NATS server answers at {nats.url}") from None

    def _start_member(self, member: Member, roll_call: RollCall) -> None:
        self._keep(member.name, lambda: member.command, self._output.of(member.name), roll_call.give_up)

    def _keep(
        self, name: str, command: Callable[[], list[str]], on_line: OnLine, give_up: Callable[[BatonError], None]
    ) -> Keeper:
        token = {"BATON_NATS_TOKEN": self.nats.token} if self.nats.token else {}
        keeper = self._keepers[name] = Keeper(
            name,
            command,
            environ={**self._environ, **token},
            on_line=on_line,
            report=self._report,
            tasks=self._tasks,
        )
        self._tasks.start(_run(keeper, give_up), name=f"keep {name}")
        return keeper

    def _is_ready(self, name: str) -> None:
        self._keepers[name].is_ready()
        self._report(f"{name} is ready, {time.monotonic() - self._started_s:.1f} s after the start")


async def _run(keeper: Keeper, give_up: Callable[[BatonError], None]) -> None:
    try:
        await keeper.run()
    except BatonError as error:
        give_up(error)


def _fail(future: asyncio.Future[str], error: BatonError) -> None:
    if not future.done():
        future.set_exception(error)


def _hear(roll_call: RollCall, data: bytes) -> None:
    try:
        roll_call.hear(decode(Beat, data))
    except ProtocolError:
        return
