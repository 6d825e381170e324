"""A whole Baton as a user runs it: `baton up` with its child processes."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from services.local.free_port import port_or_free
from shared.runtime.process import die_with_parent

READY = re.compile(r"Baton serves (?P<http>http://\S+)/v1 and (?P<nats>nats://[^;\s]+)")
STOP_TIMEOUT_S = 60.0


class Stack(msgspec.Struct, frozen=True):
    """Where it answers, and its supervisor's process."""

    http_url: str
    nats_url: str
    pid: int

    def process(self, name: str) -> psutil.Process:
        """The child process called `name`, such as `decode-0`."""
        for child in psutil.Process(self.pid).children():
            if name in child.cmdline():
                return child
        raise LookupError(name)


@contextlib.contextmanager
def running_stack(log_dir: Path, *arguments: str) -> Iterator[Stack]:
    """`baton up` with `arguments`, ready. Ends it as a user would, and checks that nothing is left behind."""
    port = port_or_free("127.0.0.1", 0)
    command = [sys.executable, "-m", "services.cli", "up", "--http-port", str(port), "--log-dir", str(log_dir)]
    tied = die_with_parent(with_signal=signal.SIGTERM)
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=tied) as process:  # noqa: PLW1509
        try:
            yield _ready(process)
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            code = process.wait(STOP_TIMEOUT_S)
        assert code == 0
        assert [child for child in children if child.is_running()] == []


def _ready(process: subprocess.Popen[str]) -> Stack:
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        match = READY.search(line)
        if match is not None:
            return Stack(match["http"], match["nats"], process.pid)
    raise AssertionError("baton up ended before it was ready:\n" + "".join(said))
