"""Each service by its own command, as a service manager runs it: ready, drained on SIGTERM, exit code 0."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.local.free_port import port_or_free

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("model_folder")]

FLAGS = {
    "gateway": ["--port", "0"],
    "scheduler": [],
    "prefill": ["--engine", "fake"],
    "decode": ["--engine", "fake"],
}


class Manager:
    """A service manager's end of the notification socket."""

    def __init__(self, address: Path) -> None:
        self.address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.settimeout(60)
        self._heard: list[str] = []

    def hear(self, word: str) -> None:
        """Wait for one line."""
        while word not in self._heard:
            self._heard += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def start(role: str, *arguments: str, nats_url: str, manager: Manager) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.cli", role, "--nats", nats_url, *FLAGS[role], *arguments]
    environ = {**os.environ, "NOTIFY_SOCKET": manager.address}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)


@pytest.mark.parametrize("role", FLAGS)
def test_a_service_is_ready_drains_and_exits_with_0(role: str, nats_url: str, manager: Manager) -> None:
    with start(role, nats_url=nats_url, manager=manager) as process:
        manager.hear("READY=1")
        process.send_signal(signal.SIGTERM)
        manager.hear("STOPPING=1")
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert "level=error" not in log


def test_a_worker_serves_its_metrics_when_asked(nats_url: str, manager: Manager) -> None:
    port = port_or_free("127.0.0.1", 0)
    with start("decode", "--metrics-port", str(port), nats_url=nats_url, manager=manager) as process:
        manager.hear("READY=1")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert b"baton_loop_lag_seconds_count" in answer.read()
        process.terminate()


def test_a_service_without_nats_waits_for_it_and_can_be_stopped(manager: Manager) -> None:
    port = port_or_free("127.0.0.1", 0)
    with start("scheduler", nats_url=f"nats://127.0.0.1:{port}", manager=manager) as process:
        manager.hear("STATUS=starting")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
