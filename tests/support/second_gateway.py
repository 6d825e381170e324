"""One more gateway beside those of `baton up`, which nobody restarts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from stack import STOP_TIMEOUT_S, Stack

from services.local.free_port import port_or_free
from shared.runtime.process import die_with_parent

START_TIMEOUT_S = 30.0


@contextlib.contextmanager
def second_gateway(stack: Stack, log: Path) -> Iterator[str]:
    """Its URL, once it serves."""
    port = port_or_free("127.0.0.1", 0)
    command = [sys.executable, "-m", "services.cli", "gateway", "--id", "gateway-b"]
    command += ["--nats", stack.nats_url, "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stderr=output, preexec_fn=die_with_parent()) as process,  # noqa: PLW1509
    ):
        try:
            _until_healthy(url)
            yield url
        finally:
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0


def _until_healthy(url: str) -> None:
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            assert time.monotonic() < until_s, "the second gateway does not serve"
            time.sleep(0.05)
