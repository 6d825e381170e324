"""Settings that several services have. Each service's own settings extend one of these."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.bus.settings import BusSettings
from shared.engine.runner_kind import RunnerKind


class LogFormat(enum.StrEnum):
    KEY_VALUE = "key-value"
    JSON = "json"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the settings of every service. An empty `id` is filled in by the `baton` command."""

    id: Annotated[str, Meta(description="name on the bus, unique in the fleet; empty: made up")] = ""
    nats: BusSettings = BusSettings()
    beat_interval_s: Annotated[float, Meta(gt=0, description="time between two beats")] = 0.5
    drain_timeout_s: Annotated[float, Meta(ge=0, description="longest wait for running work after SIGTERM")] = 30.0
    metrics_host: Annotated[str, Meta(description="address of the metrics port")] = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65535, description="port for Prometheus; 0: none")] = 0
    log_level: Annotated[LogLevel, Meta(description="least severe records to log")] = LogLevel.INFO
    log_format: Annotated[LogFormat, Meta(description="a line per record, as key=value pairs or as JSON")] = (
        LogFormat.KEY_VALUE
    )


class ModelSettings(ProcessSettings, frozen=True, kw_only=True):
    """Settings of the services that need the model's files."""

    model: Annotated[str, Meta(description="name of a pulled model, or a folder that holds one")] = (
        "smollm2-135m-instruct"
    )
    cache_dir: Annotated[str, Meta(description="where pulled models are kept; empty: the user's cache")] = ""


class EngineKind(enum.StrEnum):
    TORCH = "torch"
    FAKE = "fake"


class WorkerProcessSettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of the services that compute."""

    engine: Annotated[EngineKind, Meta(description="torch; or fake: no model, made-up tokens, for tests")] = (
        EngineKind.TORCH
    )
    dtype: Annotated[str, Meta(description="bfloat16, float16 or float32")] = "bfloat16"
    device: Annotated[str, Meta(description="cpu or cuda")] = "cpu"
    runner: Annotated[
        RunnerKind,
        Meta(description="fused: the fast path; general: transformers' modules; auto: fused for models it knows"),
    ] = RunnerKind.AUTO
    cores: Annotated[tuple[int, ...], Meta(description="CPU cores this process may use, as 2,3; none: all")] = ()
    threads: Annotated[int, Meta(ge=0, description="threads of the engine; 0: one for each of `cores`, or one")] = 0
    huge_pages: Annotated[
        bool, Meta(description="ask the kernel for huge pages, which makes an engine on the CPU a tenth faster")
    ] = True
    prefix_cache: Annotated[
        bool, Meta(description="keep beginnings of prompts in free KV memory, for prompts that begin alike")
    ] = True
    fake_crash_token: Annotated[int, Meta(description="a prompt with this token kills the fake engine's process")] = -1
    fake_error_token: Annotated[int, Meta(description="a prompt with this token makes the fake engine raise")] = -1
    fake_hang_token: Annotated[int, Meta(description="a prompt with this token makes the fake engine hang")] = -1
    engine_stall_s: Annotated[
        float, Meta(gt=0, description="an engine call that takes so long, and 10 times any before, ends the process")
    ] = 60.0

    @property
    def engine_threads(self) -> int:
        return self.threads or max(1, len(self.cores))
