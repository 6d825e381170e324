"""Where the output of children goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.local.output import Output
from shared.errors import ConfigError


def test_lines_for_the_terminal_carry_the_name() -> None:
    lines: list[str] = []
    Output("", lines.append).of("decode-0")("hello")
    assert lines == ["[decode-0] hello"]


def test_each_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "logs"), pytest.fail)
    output.of("a")("one")
    output.of("b")("two")
    output.close()
    assert [(tmp_path / "logs" / f"{name}.log").read_text() for name in "ab"] == ["one\n", "two\n"]


def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write logs"):
        Output(str(tmp_path / "file"), print).of("a")
