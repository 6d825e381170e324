"""`baton decode`."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli_engine import engine_loader, int8_loader
from services.cli_process import run_service
from services.cli_settings import load_settings
from services.decode.service import decode_service
from services.decode.settings import DecodeSettings
from shared.core import Role
from shared.runtime.tasks import Tasks
from shared.runtime.worker_service import WorkerService


def main(argv: Sequence[str]) -> int:
    settings = load_settings(DecodeSettings, "decode", argv, "Take KV caches over and generate tokens.")
    return run_service(Role.DECODE, settings, _make)


def _make(settings: DecodeSettings, tasks: Tasks) -> WorkerService:
    load = engine_loader(settings, kv_bytes=settings.kv_bytes, step_s=settings.fake_step_s)
    return decode_service(settings, load, tasks, load_int8=int8_loader(settings))
