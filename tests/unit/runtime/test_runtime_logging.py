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


def test_a_session_id_is_a_key_and_is_cut_short_and_a_request_id_is_not() -> None:
    stream = configured()
    session, request = "0123456789abcdef" * 2, "fedcba9876543210" * 2
    try:
        raise ValueError(f"session {session} epoch 1")
    except ValueError:
        logger.exception("task resume %s of request %s", session, request, extra={"session": session})
    line = stream.getvalue()
    assert session not in line
    assert "session=01234567 " in line
    assert request in line
