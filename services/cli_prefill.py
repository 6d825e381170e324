"""`baton prefill`."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli_engine import engine_loader, int8_loader
from services.cli_process import run_service
from services.cli_settings import load_settings
from services.prefill.service import prefill_service
from services.prefill.settings import PrefillSettings
from shared.core import Role
from shared.runtime.tasks import Tasks
from shared.runtime.worker_service import WorkerService


def main(argv: Sequence[str]) -> int:
    settings = load_settings(PrefillSettings, "prefill", argv, "Compute prompts and hand their KV cache over.")
    return run_service(Role.PREFILL, settings, _make)


def _make(settings: PrefillSettings, tasks: Tasks) -> WorkerService:
    load = engine_loader(settings, kv_bytes=settings.kv_bytes, prefill_token_s=settings.fake_prefill_token_s)
    return prefill_service(settings, load, tasks, load_int8=int8_loader(settings))
