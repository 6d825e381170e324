"""Log lines: one per record, with extras, escaped."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from shared.runtime import logging as baton_logging
from shared.runtime.process_settings import LogFormat, LogLevel

logger = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _restore_root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def configured(form: LogFormat = LogFormat.KEY_VALUE, **environ: str) -> io.StringIO:
    stream = io.StringIO()
    baton_logging.configure("decode", LogLevel.INFO, form, environ, stream)
    return stream


def test_extras_become_keys() -> None:
    stream = configured()
    logger.info("joined %d", 3, extra={"session": "ab", "note": 'two "words"'})
    line = stream.getvalue()
    assert 'level=info process=decode logger=test message="joined 3" session=ab note="two \\"words\\""' in line
    assert line.startswith("time=")


def test_a_traceback_stays_on_the_line() -> None:
    stream = configured()
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        logger.exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError" in stream.getvalue()


def test_json_lines_are_json() -> None:
    stream = configured(LogFormat.JSON)
    logger.warning("x", extra={"session": "ab", "path": object})
    record = json.loads(stream.getvalue())
    assert (record["level"], record["message"], record["session"]) == ("warning", "x", "ab")


def test_under_journald_a_line_starts_with_its_priority_and_has_no_time() -> None:
    stream = configured(JOURNAL_STREAM="8:1")
    logger.error("x")
    assert stream.getvalue() == "<3>level=error process=decode logger=test message=x\n"


def test_records_below_the_level_are_dropped() -> None:
    stream = configured()
    logger.debug("x")
    assert stream.getvalue() == ""
