"""nats-server processes on ports of their own, alone or as a cluster, which can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from services.local import nats_server
from services.local.free_port import port_or_free
from shared.runtime.process import die_with_parent

PORTS = range(20_000, 30_000)


def lasting_port() -> int:
    """A free port that stays free while its server is away: the system gives none of these to whoever just dials."""
    while True:
        port = random.choice(PORTS)
        if port_or_free("127.0.0.1", port) == port:
            return port


class NatsNode:
    """One process. `more` is added to its configuration."""

    def __init__(self, folder: Path, more: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.port = lasting_port()
        self._folder = folder
        self._more = more
        self.url = f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = nats_server.command(self._folder, self.port)
        with (self._folder / "nats-server.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(self._more)
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(command, stderr=log, preexec_fn=die_with_parent())  # noqa: PLW1509

    def kill(self) -> None:
        """With SIGKILL. Idempotent."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def gone_for(self, duration_s: float) -> None:
        self.kill()
        await asyncio.sleep(duration_s)
        self.start()


@contextlib.contextmanager
def cluster_of(folder: Path, size: int = 3) -> Iterator[list[NatsNode]]:
    """So many nodes, each with routes to all. They tell their clients of each other."""
    route_ports = [lasting_port() for _ in range(size)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in route_ports)
    nodes = []
    for number, port in enumerate(route_ports):
        cluster = f'cluster {{ name: "baton", listen: "127.0.0.1:{port}", routes: [{routes}], pool_size: -1 }}'
        nodes.append(NatsNode(folder / f"node{number}", f'server_name: "node{number}"\n{cluster}\n'))
    for node in nodes:
        node.start()
    try:
        yield nodes
    finally:
        for node in nodes:
            node.kill()
