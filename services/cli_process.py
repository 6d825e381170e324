"""Runs one service as this process: its name, logs, cores, metrics port, and its life."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.core import Role
from shared.runtime import logging, metrics
from shared.runtime.huge_pages import begin_anew_with_huge_pages
from shared.runtime.process import pin_to
from shared.runtime.process_settings import EngineKind, ModelSettings, ProcessSettings, WorkerProcessSettings
from shared.runtime.sd_notify import Notifier
from shared.runtime.service import Service, run
from shared.runtime.settings import cache_folder, process_environment
from shared.runtime.tasks import Tasks

S = TypeVar("S", bound=ProcessSettings)


def run_service(role: Role, settings: S, make: Callable[[S, Tasks], Service]) -> int:
    """Run `make(settings, tasks)` to its end and return the exit code. Raises ConfigError."""
    environ = process_environment()
    if isinstance(settings, WorkerProcessSettings) and settings.huge_pages and settings.engine is EngineKind.TORCH:
        begin_anew_with_huge_pages(environ)
    settings = _named(role, settings)
    logging.configure(settings.id, settings.log_level, settings.log_format, environ)
    if isinstance(settings, WorkerProcessSettings):
        pin_to(settings.cores)
    with metrics.serve(settings.metrics_host, settings.metrics_port):
        return run(
            lambda on_failure: make(settings, Tasks(settings.id, on_failure)),
            name=settings.id,
            drain_timeout_s=settings.drain_timeout_s,
            notifier=Notifier.from_environment(environ),
        )


def models_folder(settings: ModelSettings) -> Path:
    """Where the model named in `settings` was pulled to."""
    return cache_folder(settings.cache_dir)


def _named(role: Role, settings: S) -> S:
    """With an id of its own, if it has none: role, host and a random part."""
    if settings.id:
        return settings
    host = re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname().partition(".")[0])[:32].strip("-")
    return msgspec.structs.replace(settings, id="-".join(filter(None, (role.value, host, secrets.token_hex(2)))))
