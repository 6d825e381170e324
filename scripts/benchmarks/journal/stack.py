"""`baton up` with the fake engine, and the CPU time of its processes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import psutil

from services.local.free_port import port_or_free

READY = re.compile(r"Baton serves (http://\S+)/v1")
STOP_TIMEOUT_S = 30.0


class Stack:
    """Where it answers, and its supervisor's process."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self._pid = pid

    def cpu_s(self) -> tuple[float, float]:
        """What gateway and NATS server have used so far."""
        children = psutil.Process(self._pid).children()
        return _cpu_s(children, "gateway-0"), _cpu_s(children, "--config")


@contextlib.contextmanager
def running(step_s: float) -> Iterator[Stack]:
    """One worker of each phase; a decode step takes `step_s`."""
    port = port_or_free("127.0.0.1", 0)
    environ = {**os.environ, "BATON_FAKE_STEP_S": str(step_s)}
    with tempfile.TemporaryDirectory() as logs:
        command = [sys.executable, "-m", "services.cli", "up", "--engine", "fake", "--http-port", str(port)]
        command += ["--log-dir", logs]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
            try:
                yield Stack(_url(process), process.pid)
            finally:
                process.terminate()
                process.wait(STOP_TIMEOUT_S)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        match = READY.search(line)
        if match is not None:
            return match[1]
    raise SystemExit("baton up ended before it was ready")


def _cpu_s(children: list[psutil.Process], word: str) -> float:
    process = next(child for child in children if word in child.cmdline())
    times = process.cpu_times()
    return float(times.user + times.system)
