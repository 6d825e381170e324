"""Runs the measurements: a nats-server, the two processes, and the orders they get."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import msgspec

from benchmarks.handoff.plan import SLICE_TOKENS, Order, Times, Way
from benchmarks.handoff.sides import SideProcess
from services.local import nats_server
from services.prefill.settings import PrefillSettings

CHUNK_BYTES = PrefillSettings(id="bench").chunk_bytes
LANES = (1, 2, 4)
TRANSFERS = 8
# What one core takes for a slice of a 135M model.
COMPUTE_S_PER_TOKEN = 0.35e-3


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All measurements of one chunk size and number of transfers at once; the n-th of every way ran side by side."""

    chunk_bytes: int
    window_bytes: int
    lanes: int
    gb_per_s: dict[Way, list[float]]
    cpu_s_per_gb: dict[Way, tuple[float, float, float]]

    def ratios(self, way: Way) -> list[float]:
        """Against raw, run by run."""
        return [one / raw for one, raw in zip(self.gb_per_s[way], self.gb_per_s[Way.RAW], strict=True)]


class Bench:
    """A context: everything it started ends with it."""

    def __init__(self, window_bytes: int) -> None:
        self._window_bytes = window_bytes

    def __enter__(self) -> Bench:
        self._folder = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            nats_server.command(Path(self._folder.name)), stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._url = self._wait_for_server()
        cores = sorted(os.sched_getaffinity(0))
        pinned = cores[:2] if len(cores) > 1 else (None, None)
        self._sender = SideProcess(sends=True, core=pinned[0], lanes=max(LANES))
        self._receiver = SideProcess(sends=False, core=pinned[1], lanes=max(LANES))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sender.close()
        self._receiver.close()
        self._server.terminate()
        self._server.communicate()
        self._folder.cleanup()

    def speeds(self, chunk_bytes: int, lanes: int, repeats: int) -> Measured:
        """Every way `repeats` times, in turns; int8 only with the chunks the product uses."""
        ways = [way for way in Way if way is not Way.INT8 or chunk_bytes == CHUNK_BYTES]
        gb_per_s: dict[Way, list[float]] = {way: [] for way in ways}
        cpu: dict[Way, list[tuple[float, float, float]]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way in ways:
                order = self._order(way, chunk_bytes, lanes=lanes, rounds=TRANSFERS // lanes)
                before_s = self._server_cpu_s()
                sent, received = self._run(order)
                size_gb = order.payload_bytes / 1e9
                gb_per_s[way].append(size_gb / (received.ended_s - sent.started_s))
                spent_s = (sent.cpu_s, received.cpu_s, self._server_cpu_s() - before_s)
                cpu[way].append((spent_s[0] / size_gb, spent_s[1] / size_gb, spent_s[2] / size_gb))
        return Measured(
            chunk_bytes=chunk_bytes,
            window_bytes=self._window_bytes,
            lanes=lanes,
            gb_per_s=gb_per_s,
            cpu_s_per_gb={way: _medians(cpu[way]) for way in ways},
        )

    def visible_ms(self, prompts: int, *, by_layers: bool = True, busy_receiver: bool = False) -> list[float]:
        """From the last slice computed until the cache is complete, for prompts that are computed slice by slice."""
        order = msgspec.structs.replace(
            self._order(Way.BATON, CHUNK_BYTES, rounds=prompts),
            slice_s=SLICE_TOKENS * COMPUTE_S_PER_TOKEN,
            by_layers=by_layers,
            busy_receiver=busy_receiver,
        )
        sent, received = self._run(order)
        pairs = zip(received.ready_s, sent.computed_s, strict=True)
        return [(ready_s - computed_s) * 1000 for ready_s, computed_s in pairs]

    def _order(self, way: Way, chunk_bytes: int, *, lanes: int = 1, rounds: int = 1) -> Order:
        return Order(
            way=way,
            url=self._url,
            chunk_bytes=chunk_bytes,
            window_bytes=self._window_bytes,
            lanes=lanes,
            rounds=rounds,
        )

    def _run(self, order: Order) -> tuple[Times, Times]:
        """What sender and receiver saw. Raises RuntimeError when what arrived is not what was sent."""
        for side in (self._receiver, self._sender):
            side.prepare(order)
        for side in (self._receiver, self._sender):
            side.go()
        sent, received = self._sender.times(), self._receiver.times()
        if order.way in (Way.NATS_PY, Way.BATON) and sent.digests[: order.lanes] != received.digests[: order.lanes]:
            raise RuntimeError(f"what arrived over {order.way} is not what was sent")
        return sent, received

    def _wait_for_server(self) -> str:
        assert self._server.stderr is not None
        start_up = nats_server.StartUp()
        for line in self._server.stderr:
            start_up.read(line)
            if start_up.ready:
                return start_up.url
        raise RuntimeError("nats-server did not start")

    def _server_cpu_s(self) -> float:
        """CPU time of the server so far; 0 where the system does not tell."""
        stat = Path(f"/proc/{self._server.pid}/stat")
        if not stat.exists():
            return 0.0
        user, system = stat.read_text(encoding="ascii").rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _medians(spent: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    sender, receiver, server = (statistics.median(one) for one in zip(*spent, strict=True))
    return sender, receiver, server
