"""A service as a process: real child processes, real signals."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.runtime.service import STUCK_EXIT_CODE

PROGRAM = """
import asyncio, logging, os, sys
from shared.errors import ConfigError
from shared.runtime.sd_notify import Notifier
from shared.runtime.service import run
from shared.runtime.tasks import Tasks

def say(word): print(word, flush=True)

class Probe:
    def __init__(self, on_failure):
        self.tasks = Tasks("probe", on_failure)
    async def start(self): say("started")
    async def drain(self): say("drained")
    async def hand_over(self): say("handed-over")
    def stuck(self): return ""
    async def stop(self):
        await self.tasks.close()
        say("stopped")

{body}

logging.basicConfig(format="%(message)s")
notifier = Notifier.from_environment(os.environ)
sys.exit(run(Probe{kind}, name="probe", drain_timeout_s={drain_timeout_s}, notifier=notifier))
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def start_probe(
        body: str = "", env: dict[str, str] | None = None, drain_timeout_s: float = 30
    ) -> subprocess.Popen[str]:
        program = PROGRAM.format(
            body=textwrap.dedent(body), kind="X" if "class ProbeX" in body else "", drain_timeout_s=drain_timeout_s
        )
        child = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env or {}
        )
        children.append(child)
        return child

    yield start_probe
    for child in children:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_sigterm_drains_stops_and_exits_0(start: Start) -> None:
    child = start()
    assert line(child) == "started"
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate()
    assert (out.split(), child.returncode) == (["drained", "stopped"], 0)


def test_sigint_while_starting_stops_without_a_drain(start: Start) -> None:
    child = start("""
        class ProbeX(Probe):
            async def start(self):
                say("starting")
                await asyncio.Event().wait()
    """)
    assert line(child) == "starting"
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate()
    assert (out.split(), child.returncode) == (["stopped"], 0)


ENDLESS_DRAIN = """
    class ProbeX(Probe):
        async def drain(self):
            say("draining")
            await asyncio.Event().wait()
"""


def test_a_second_signal_stops_at_once(start: Start) -> None:
    child = start(ENDLESS_DRAIN)
    assert line(child) == "started"
    child.send_signal(signal.SIGTERM)
    assert line(child) == "draining"
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate()
    assert (out.split(), child.returncode) == (["stopped"], 1)


def test_what_is_not_drained_in_time_is_handed_over(start: Start) -> None:
    child = start(ENDLESS_DRAIN, drain_timeout_s=0.05)
    assert line(child) == "started"
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate()
    assert (out.split(), child.returncode) == (["draining", "handed-over", "stopped"], 0)
    assert "drain took longer" in err


def test_what_cannot_be_handed_over_is_a_failure(start: Start) -> None:
    child = start(
        ENDLESS_DRAIN
        + """
        async def hand_over(self):
            raise RuntimeError("nobody takes it")
""",
        drain_timeout_s=0.05,
    )
    assert line(child) == "started"
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate()
    assert (out.split(), child.returncode) == (["draining", "stopped"], 1)
    assert "nobody takes it" in err


def test_a_config_error_at_start_is_one_line_without_a_traceback(start: Start) -> None:
    child = start("""
        class ProbeX(Probe):
            async def start(self):
                raise ConfigError("no such model")
    """)
    out, err = child.communicate()
    assert (out.split(), child.returncode) == (["stopped"], 1)
    assert err == "probe cannot start: no such model\n"


def test_a_service_that_cannot_be_built_exits_1_with_one_line(start: Start) -> None:
    child = start("""
        class ProbeX(Probe):
            def __init__(self, on_failure):
                raise ConfigError("no such core")
    """)
    out, err = child.communicate()
    assert (out, child.returncode, err) == ("", 1, "probe cannot start: no such core\n")


def test_a_failing_task_of_the_service_ends_the_process_with_1(start: Start) -> None:
    child = start("""
        class ProbeX(Probe):
            async def start(self):
                self.tasks.start(self.fail(), name="fail")
            async def fail(self):
                raise RuntimeError("the engine died")
    """)
    out, err = child.communicate()
    assert (out.split(), child.returncode) == (["stopped"], 1)
    assert "probe cannot go on: RuntimeError: the engine died" in err


def test_the_service_manager_hears_ready_alive_and_stopping(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(tmp_path / "notify")
        manager.bind(address)
        manager.settimeout(20)
        child = start(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"})
        heard = _hear_until(manager, "READY=1")
        assert "STATUS=starting" in heard
        _hear_until(manager, "WATCHDOG=1")
        child.send_signal(signal.SIGTERM)
        _hear_until(manager, "STOPPING=1")
        assert child.wait() == 0


def _hear_until(manager: socket.socket, word: str) -> list[str]:
    heard: list[str] = []
    while word not in heard:
        heard += manager.recv(4096).decode().splitlines()
    return heard


def test_a_stuck_service_ends_the_process_at_once_with_its_reason(start: Start) -> None:
    child = start("""
        class ProbeX(Probe):
            def stuck(self):
                return "the engine sleeps"
            async def stop(self):
                await asyncio.Event().wait()
    """)
    _, err = child.communicate()
    assert child.returncode == STUCK_EXIT_CODE
    assert "probe ends, to be started anew: the engine sleeps" in err


def test_the_service_manager_hears_nothing_of_a_loop_that_is_blocked(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(tmp_path / "notify")
        manager.bind(address)
        child = start(
            """
            import shared.runtime.service as runtime, time
            runtime.LOOP_STALL_S = 1.0
            class ProbeX(Probe):
                async def start(self):
                    asyncio.get_running_loop().call_later(0.1, time.sleep, 60)
        """,
            env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000"},
        )
        _, err = child.communicate()
    assert child.returncode == 1
    assert "Timeout" in err
    assert "most recent call first" in err


def test_what_cannot_be_stopped_does_not_keep_the_process_alive(start: Start) -> None:
    child = start("""
        import threading
        class ProbeX(Probe):
            async def stop(self):
                threading.Thread(target=threading.Event().wait).start()
                raise RuntimeError("the engine does not return")
    """)
    assert line(child) == "started"
    child.send_signal(signal.SIGTERM)
    child.communicate()
    assert child.returncode == 1
