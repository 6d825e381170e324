"""`scripts/soak` itself, for some seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
MARK = "SOAKED_BY"
LOADED = "load and faults begin"
FAULTS = "kill-decode,kill-prefill,freeze-scheduler,cut-decode,burst"

pytestmark = [pytest.mark.model, pytest.mark.timeout(240)]


def start(*arguments: str) -> subprocess.Popen[str]:
    """Its processes are known by `MARK` in their environment."""
    command = [str(ROOT / "scripts" / "soak"), "--json", *arguments]
    environ = {**os.environ, MARK: str(os.getpid())}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def end(soak: subprocess.Popen[str]) -> dict[str, Any]:
    """The object it ended with, once it has ended and left nothing behind."""
    said, _ = soak.communicate()
    assert [process for process in psutil.process_iter() if _is_of_soak(process)] == []
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    return report


def test_a_short_soak_loses_nothing():
    with start("--minutes", "0.2", "--seed", "3", "--faults", FAULTS, "--fault-every", "1.5") as soak:
        report = end(soak)
    assert report["failed"] == report["token_errors"] == report["leaked_bytes"] == 0, report
    assert soak.returncode == 0, report
    assert report["finished"] > 10
    assert report["faults"] > 2


def test_ctrl_c_ends_the_load_and_shows_the_result():
    with start("--minutes", "10", "--faults", "burst") as soak:
        assert soak.stderr is not None
        assert any(LOADED in line for line in soak.stderr)
        soak.send_signal(signal.SIGINT)
        report = end(soak)
    assert report["duration_s"] < 60
    assert report["failed"] == 0


def _is_of_soak(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == str(os.getpid())
    except (psutil.Error, OSError):
        return False
