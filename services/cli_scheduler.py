"""`baton scheduler`."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli_process import run_service
from services.cli_settings import load_settings
from services.scheduler.service import SchedulerService
from services.scheduler.settings import SchedulerSettings
from shared.core import Role


def main(argv: Sequence[str]) -> int:
    settings = load_settings(SchedulerSettings, "scheduler", argv, "Place sessions on prefill and decode workers.")
    return run_service(Role.SCHEDULER, settings, SchedulerService)
