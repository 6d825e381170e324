"""The `baton` command: what it runs, what it imports, what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services import cli


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["prefil"]) == 2
    assert "did you mean prefill?" in capsys.readouterr().err


def test_wrong_settings_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scheduler", "--queue-limits", "3"]) == 2
    error = capsys.readouterr().err
    assert error == "baton scheduler: argument '--queue-limits' is unknown; did you mean --queue-limit?\n"


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize("command", ["gateway", "scheduler", "prefill", "decode", "up", "workers", "quickstart"])
def test_no_command_imports_torch_to_show_its_help(command: str) -> None:
    program = (
        "import sys; from services.cli import main\n"
        f"try: main([{command!r}, '--help'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.splitlines()[0].startswith(f"usage: baton {command}")
    assert out.splitlines()[-1] == "False"


def test_a_model_that_is_not_here_is_one_line(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "services.cli", "prefill", "--cache-dir", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "baton pull" in ended.stderr
    assert "Traceback" not in ended.stderr
