"""Runs a supervisor as this process: what `baton up` and `baton quickstart` have in common."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence

from services.local.settings import UpSettings
from services.local.supervisor import Supervisor
from shared.runtime import logging
from shared.runtime.process_settings import LogLevel
from shared.runtime.service import run
from shared.runtime.settings import config_file, process_environment
from shared.runtime.tasks import Tasks

DRAIN_MARGIN_S = 5.0


def run_local(
    name: str,
    settings: UpSettings,
    argv: Sequence[str],
    when_ready: Callable[[Supervisor], Awaitable[None]],
    *,
    log_level: LogLevel,
) -> int:
    """Until SIGTERM or SIGINT. Returns the exit code."""
    environ = process_environment()
    logging.configure(name, log_level, settings.log_format, environ)

    def make(on_failure: Callable[[BaseException], None]) -> Supervisor:
        return Supervisor(
            settings,
            Tasks(name, on_failure),
            environ=environ,
            report=say,
            when_ready=when_ready,
            config=config_file(argv, environ),
        )

    return run(make, name=name, drain_timeout_s=settings.drain_timeout_s + DRAIN_MARGIN_S)


def say(text: str) -> None:
    """A sentence for the person at the terminal; stdout is for answers."""
    print(text, file=sys.stderr, flush=True)
