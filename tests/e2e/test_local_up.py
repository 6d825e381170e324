"""`baton up`: what it starts, keeps alive and stops. The engine is the fake one; NATS, services, clients are real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from stack import READY, Stack, running_stack

from services.local.free_port import port_or_free

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("model_folder")]

ROOT = Path(__file__).parents[2]


def baton(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "COLUMNS": "200"}
    )


@contextlib.contextmanager
def chunks_of_answer(stack: Stack, tokens: int) -> Iterator[Iterator[dict[str, Any]]]:
    """A streamed completion of exactly `tokens` tokens, chunk by chunk."""
    body = {"model": "smollm2-135m-instruct", "prompt": "hello", "max_tokens": tokens, "stream": True}
    request = urllib.request.Request(
        f"{stack.http_url}/v1/completions",
        json.dumps({**body, "ignore_eos": True, "stream_options": {"include_usage": True}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        yield (json.loads(line[6:]) for line in answer if line.startswith(b"data: {"))


def wait_for(stack: Stack, name: str) -> None:
    """Until the process called `name` beats (again): `baton workers` hears only beats sent while it listens."""
    while name not in baton("workers", "--nats", stack.nats_url).stdout:
        continue


def test_two_by_two_serves_and_is_listed(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--engine", "fake", "--prefill", "2", "--decode", "2") as stack:
        listed = baton("workers", "--nats", stack.nats_url).stdout
        for name in ("gateway-0", "scheduler-0", "prefill-0", "prefill-1", "decode-0", "decode-1"):
            assert name in listed
        with chunks_of_answer(stack, tokens=20) as chunks:
            assert list(chunks)[-1]["usage"]["completion_tokens"] == 20


def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--engine", "fake") as stack:
        killed = stack.process("decode-0")
        killed.kill()
        killed.wait(20)
        wait_for(stack, "decode-0")
        assert stack.process("decode-0").pid != killed.pid
        with chunks_of_answer(stack, tokens=5) as chunks:
            assert list(chunks)[-1]["usage"]["completion_tokens"] == 5


def test_a_restarted_nats_has_the_same_address(tmp_path: Path) -> None:
    with running_stack(tmp_path, "--engine", "fake") as stack:
        stack.process("--config").kill()
        wait_for(stack, "decode-0")
        with chunks_of_answer(stack, tokens=5) as chunks:
            assert list(chunks)[-1]["usage"]["completion_tokens"] == 5


@contextlib.contextmanager
def bare_up(log_dir: Path) -> Iterator[tuple[subprocess.Popen[str], Stack]]:
    """`baton up`, ready, for tests of how it ends."""
    port = port_or_free("127.0.0.1", 0)
    command = [sys.executable, "-m", "services.cli", "up", "--engine", "fake", "--log-dir", str(log_dir)]
    with subprocess.Popen([*command, "--http-port", str(port)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            ready = next(filter(None, map(READY.search, process.stderr)))
            yield process, Stack(ready["http"], ready["nats"], process.pid)
        finally:
            process.kill()


def test_a_running_answer_is_finished_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_FAKE_STEP_S", "0.02")
    with bare_up(tmp_path) as (up, stack), chunks_of_answer(stack, tokens=60) as chunks:
        next(chunks)
        up.send_signal(signal.SIGINT)
        assert list(chunks)[-1]["usage"]["completion_tokens"] == 60
        assert up.wait(60) == 0


def test_a_second_signal_ends_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_FAKE_STEP_S", "0.1")
    with bare_up(tmp_path) as (up, stack), chunks_of_answer(stack, tokens=2000) as chunks:
        next(chunks)
        children = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGINT)
        next(chunks)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 1
        assert psutil.wait_procs(children, timeout=20)[1] == []


def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    with bare_up(tmp_path) as (up, _stack):
        children = psutil.Process(up.pid).children(recursive=True)
        up.kill()
        assert len(children) == 5
        assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_service_that_cannot_start_ends_up_with_its_last_words(tmp_path: Path, nats_url: str) -> None:
    taken = nats_url.rpartition(":")[2]
    ended = baton("up", "--engine", "fake", "--log-dir", str(tmp_path), "--http-port", taken)
    assert ended.returncode == 1
    assert "gateway-0 ended with exit code 1" in ended.stderr
    assert f"cannot listen on 127.0.0.1:{taken}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_existing_nats_is_used(tmp_path: Path, nats_url: str) -> None:
    with running_stack(tmp_path, "--engine", "fake", "--nats", nats_url) as stack:
        assert stack.nats_url == nats_url
        assert not (tmp_path / "nats-server.log").exists()
        assert len(psutil.Process(stack.pid).children()) == 4


def test_a_nats_that_does_not_answer_is_named(tmp_path: Path) -> None:
    port = port_or_free("127.0.0.1", 0)
    ended = baton("up", "--engine", "fake", "--log-dir", str(tmp_path), "--nats", f"nats://127.0.0.1:{port}")
    assert ended.returncode == 1
    assert f"no NATS server answers at nats://127.0.0.1:{port}" in ended.stderr
