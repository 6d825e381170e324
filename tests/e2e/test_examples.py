"""Every file in `examples/` runs against a whole Baton, as a stranger would run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 100


class Stack(Protocol):
    """A running Baton."""

    http_url: str
    nats_url: str


def output_of(*command: str | Path, folder: Path = EXAMPLES) -> str:
    """What `command` prints; fails with all of it where it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_curl(stack: Stack, _tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    shown = output_of("sh", EXAMPLES / "curl.sh", stack.http_url)
    assert '"object":"text_completion"' in shown.replace(" ", "")
    assert shown.rstrip().endswith("data: [DONE]")


def run_openai_sdk(stack: Stack, _tmp_path: Path) -> None:
    assert " tokens]" in output_of(sys.executable, EXAMPLES / "openai_sdk.py", stack.http_url)


def run_websocket(stack: Stack, _tmp_path: Path) -> None:
    shown = output_of(sys.executable, EXAMPLES / "websocket.py", stack.http_url)
    assert "endless (cancelled)" in shown
    assert "colours (stop)" in shown or "colours (length)" in shown


def run_resume(stack: Stack, _tmp_path: Path) -> None:
    before, after = output_of(sys.executable, EXAMPLES / "resume.py", stack.http_url).split("[broken off]")
    assert before
    assert after.strip()


def run_python_nats(stack: Stack, _tmp_path: Path) -> None:
    assert " tokens]" in output_of(sys.executable, EXAMPLES / "python_nats.py", stack.nats_url)


def run_node_nats(stack: Stack, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    folder = tmp_path / "node_nats"
    shutil.copytree(EXAMPLES / "node_nats", folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if installed.returncode != 0:
        pytest.skip(f"npm install fails here: {installed.stderr.strip().splitlines()[-1:]}")
    assert " tokens]" in output_of("node", "generate.mjs", stack.nats_url, folder=folder)


RUNNERS: dict[str, Callable[[Stack, Path], None]] = {
    "curl.sh": run_curl,
    "openai_sdk.py": run_openai_sdk,
    "websocket.py": run_websocket,
    "resume.py": run_resume,
    "python_nats.py": run_python_nats,
    "node_nats": run_node_nats,
}
NOT_RUN = {"README.md"}


def test_every_example_has_a_runner() -> None:
    found = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith((".", "__"))}
    assert found - NOT_RUN == set(RUNNERS)


@pytest.mark.timeout(2 * TIMEOUT_S + 20)
@pytest.mark.parametrize("name", RUNNERS)
def test_it_runs(name: str, stack: Stack, tmp_path: Path) -> None:
    RUNNERS[name](stack, tmp_path)
