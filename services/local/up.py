"""`baton up`: all services on this machine until Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli_settings import load_settings
from services.local.model import fetch_model
from services.local.run import run_local, say
from services.local.settings import UpSettings
from services.local.supervisor import Supervisor

DESCRIPTION = "Run NATS, a gateway, a scheduler, and prefill and decode workers on this machine."


def main(argv: Sequence[str]) -> int:
    settings = load_settings(UpSettings, "up", argv, DESCRIPTION)
    fetch_model(settings)
    return run_local("up", settings, argv, _when_ready, log_level=settings.log_level)


async def _when_ready(supervisor: Supervisor) -> None:
    say(f"Baton serves {supervisor.http_url}/v1 and {supervisor.nats.url}; Ctrl-C stops it")
