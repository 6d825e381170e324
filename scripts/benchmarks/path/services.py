"""The services: `baton up` as a user runs it, and one client that asks over HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import aiohttp

from benchmarks.path.alone import Work
from benchmarks.path.measured import Measured
from services.local.free_port import port_or_free
from shared.models.catalogue import DEFAULT_MODEL
from shared.runtime.process import die_with_parent

_READY = re.compile(r"Baton serves (?P<http>http://\S+)/v1 ")
_STOP_TIMEOUT_S = 60.0


@contextlib.contextmanager
def running(log_dir: str) -> Iterator[str]:
    """One worker of each phase, ready; the address of its HTTP door."""
    port = port_or_free("127.0.0.1", 0)
    # One thread each, as the engine alone has.
    flags = ["--threads", "1", "--http-port", str(port), "--log-dir", log_dir]
    command = [sys.executable, "-m", "services.cli", "up", *flags]
    tied = die_with_parent(with_signal=signal.SIGTERM)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=tied) as process:  # noqa: PLW1509
        try:
            yield _address(process)
        finally:
            process.terminate()
            process.wait(_STOP_TIMEOUT_S)


def _address(process: subprocess.Popen[str]) -> str:
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if match := _READY.search(line):
            return match["http"]
    raise SystemExit("baton up ended before it was ready:\n" + "".join(said))


async def ask(client: aiohttp.ClientSession, url: str, work: Work, salt: str) -> tuple[Measured, dict[str, float]]:
    """One streamed completion: what the client saw, and the stages the services report."""
    body = {
        "model": DEFAULT_MODEL,
        "prompt": work.prompt_ids,
        "max_tokens": work.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": salt,
    }
    moments, stages = [time.perf_counter()], {}
    async with client.post(f"{url}/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            now_s = time.perf_counter()
            event = json.loads(line[6:])
            if event["choices"]:
                moments.append(now_s)
            stages = event.get("baton") or stages
    return Measured.of(moments), stages
