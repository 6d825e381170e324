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
MARK = "QUICKSTART_TEST"
PROMPT = "What is the capital of France?"


def check_answer(command: list[str | Path], folder: Path) -> None:
    mark = f"{os.getpid()}-{folder}"
    environ = {**os.environ, MARK: mark}
    ended = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        timeout=110,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout
    for worker in ("prefill-0", "decode-0"):
        assert worker in ended.stdout
    for measure in ("queue", "visible", "TTFT", "ITL"):
        assert re.search(rf"{measure}.* [\d.]+ ms", ended.stdout), ended.stdout
    assert re.search(r"\d (KiB|MiB) of KV", ended.stdout)
    assert "ended with" not in ended.stderr
    assert [process for process in psutil.process_iter() if environment(process).get(MARK) == mark] == []


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


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
