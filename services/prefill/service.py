"""The prefill service: one prefill worker as a process."""

from __future__ import annotations

from collections.abc import Callable

from services.prefill.settings import PrefillSettings
from services.prefill.worker import PrefillWorker
from shared.core import Role
from shared.engine.contract import Engine
from shared.kv.int8 import Int8Codec
from shared.runtime.tasks import Tasks
from shared.runtime.worker_service import WorkerService


def prefill_service(
    settings: PrefillSettings,
    load_engine: Callable[[], Engine],
    tasks: Tasks,
    *,
    load_int8: Callable[[], Int8Codec] = Int8Codec,
) -> WorkerService:
    """A prefill worker that is ready to start. `settings.id` must be set."""
    return WorkerService(
        Role.PREFILL,
        settings.id,
        settings.nats,
        settings.beat_interval_s,
        engine_stall_s=settings.engine_stall_s,
        load_engine=load_engine,
        load_int8=load_int8,
        make=lambda context: PrefillWorker(settings, context),
        tasks=tasks,
    )
