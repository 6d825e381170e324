"""The first thing a person does with Baton: one command, one answer from the real model, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("model_folder")]

ROOT = Path(__file__).parents[2]
PROMPT = "What is the capital of France?"


def check_answer(command: list[str | Path], folder: Path) -> None:
    """Runs it in `folder` in a process group of its own, so that whatever it left behind can be found."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as running:
        out, err = running.communicate(timeout=110)
    assert running.returncode == 0, err
    assert "Paris" in out
    for worker in ("prefill-0", "decode-0"):
        assert worker in out
    for measure in ("queue", "hand-off", "TTFT", "ITL"):
        assert re.search(rf"{measure}.* [\d.]+ ms", out), out
    assert re.search(r"\d (KiB|MiB) of KV", out)
    assert "ended with" not in err
    logs = re.search(r"logs are in (\S+)", err)
    assert logs is not None
    assert not Path(logs.group(1)).exists()
    assert [process for process in psutil.process_iter(["cmdline"]) if _started_by(process, running.pid)] == []


def _started_by(process: psutil.Process, pid: int) -> bool:
    return f"baton-quickstart-{pid}" in " ".join(process.info["cmdline"] or ())


def test_quickstart_answers_once_and_leaves_nothing(tmp_path: Path) -> None:
    check_answer([sys.executable, "-m", "services.cli", "quickstart", PROMPT, "--once"], tmp_path)


def test_the_script_answers_from_any_folder(tmp_path: Path) -> None:
    if not (Path(sys.prefix) / ".baton-installed").exists():
        pytest.skip("this environment was not made by scripts/setup")
    check_answer(["env", f"BATON_VENV={sys.prefix}", ROOT / "scripts" / "quickstart", "--once", PROMPT], tmp_path)


def test_it_says_what_is_wrong_with_the_model(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli", "quickstart", "--once", "--model", "smollm2-135m-instrukt"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    assert ended.returncode == 1
    assert "did you mean smollm2-135m-instruct?" in ended.stderr
    assert "Traceback" not in ended.stderr
