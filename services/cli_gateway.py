"""`baton gateway`."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli_process import models_folder, run_service
from services.cli_settings import load_settings
from services.gateway.service import GatewayService
from services.gateway.settings import GatewaySettings
from shared.core import Role
from shared.models.store import resolve
from shared.runtime.tasks import Tasks


def main(argv: Sequence[str]) -> int:
    settings = load_settings(GatewaySettings, "gateway", argv, "Answer clients over HTTP, WebSocket and NATS.")
    return run_service(Role.GATEWAY, settings, _make)


def _make(settings: GatewaySettings, tasks: Tasks) -> GatewayService:
    return GatewayService(settings, resolve(settings.model, models_folder(settings)), tasks)
