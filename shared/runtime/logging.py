"""Logs on stderr: one line per record, as key=value pairs or as JSON.

Whatever a caller gives as `extra=` (request, session, worker) becomes a key. Under journald each line starts with its
priority and leaves the time to the journal.

Whoever has the id of a resumable session may read and end it: logs have only its first eight digits.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import IO

import msgspec

from shared.runtime.process_settings import LogFormat, LogLevel

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_SESSION_ID = re.compile(r"(?<!request )\b([0-9a-f]{8})[0-9a-f]{24}\b")
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


def configure(
    name: str, level: LogLevel, form: LogFormat, environ: Mapping[str, str], stream: IO[str] | None = None
) -> None:
    """Send all logs of this process to `stream` (stderr), replacing what was configured before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(name, form, journald="JOURNAL_STREAM" in environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class LineFormatter(logging.Formatter):
    """One line per record: time, level, process, logger, message, extras, and the traceback if there is one."""

    def __init__(self, name: str, form: LogFormat, *, journald: bool = False) -> None:
        super().__init__()
        self._name = name
        self._journald = journald
        self._line = _json if form is LogFormat.JSON else _key_value

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(dict(self._fields(record)))
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" if self._journald else line

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, object]]:
        if not self._journald:
            yield "time", _utc(record.created)
        yield "level", record.levelname.lower()
        yield "process", self._name
        yield "logger", record.name
        yield "message", _without_session_ids(record.getMessage())
        for key, value in vars(record).items():
            if key not in _STANDARD:
                yield key, _without_session_ids(str(value)) if key == "session" else value
        if record.exc_info:
            yield "exception", _without_session_ids(self.formatException(record.exc_info))
        if record.stack_info:
            yield "stack", record.stack_info


def _without_session_ids(text: str) -> str:
    return _SESSION_ID.sub(r"\1", text)


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def _json(fields: Mapping[str, object]) -> str:
    return msgspec.json.encode(fields, enc_hook=str).decode()


def _key_value(fields: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items())


def _value(value: object) -> str:
    text = str(value)
    bare = text and text.isprintable() and not any(char in ' "=\\' for char in text)
    return text if bare else msgspec.json.encode(text).decode()
