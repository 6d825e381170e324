"""The decode service: one decode worker as a process."""

from __future__ import annotations

from collections.abc import Callable

from services.decode.settings import DecodeSettings
from services.decode.worker import DecodeWorker
from shared.core import Role
from shared.engine.contract import Engine
from shared.kv.int8 import Int8Codec
from shared.runtime.tasks import Tasks
from shared.runtime.worker_service import WorkerService


def decode_service(
    settings: DecodeSettings,
    load_engine: Callable[[], Engine],
    tasks: Tasks,
    *,
    load_int8: Callable[[], Int8Codec] = Int8Codec,
) -> WorkerService:
    """A decode worker that is ready to start. `settings.id` must be set."""
    return WorkerService(
        Role.DECODE,
        settings.id,
        settings.nats,
        settings.beat_interval_s,
        engine_stall_s=settings.engine_stall_s,
        load_engine=load_engine,
        load_int8=load_int8,
        make=lambda context: DecodeWorker(settings, context),
        tasks=tasks,
    )
