"""`baton quickstart --once`: an answer, the table of phases, exit 0, and nothing left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]


def test_once_answers_and_leaves_nothing_behind(model_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli", "quickstart", "What is the capital of France?", "--once"]
    marker = str(tmp_path / "logs")
    result = subprocess.run(
        [*command, "--log-dir", marker, "--max-tokens", "24"], capture_output=True, text=True, timeout=150, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    for expected in ("prefill-0", "decode-0", "queue", "hand-off", "TTFT", "ITL", "KV"):
        assert expected in result.stdout
    assert not [process for process in psutil.process_iter(["cmdline"]) if marker in (process.info["cmdline"] or [])]
