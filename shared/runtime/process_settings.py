"""Settings that every process has. The services' own settings extend them."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from shared.bus.settings import BusSettings


class LogFormat(enum.StrEnum):
    KEY_VALUE = "key-value"
    JSON = "json"


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the settings of every service."""

    nats: BusSettings = BusSettings()
    log_level: Annotated[LogLevel, Meta(description="least severe records to log")] = LogLevel.INFO
    log_format: Annotated[LogFormat, Meta(description="one record per line, as key=value pairs or as JSON")] = (
        LogFormat.KEY_VALUE
    )
    metrics_host: Annotated[str, Meta(description="address the metrics port listens on")] = "127.0.0.1"
    metrics_port: Annotated[int, Meta(ge=0, le=65535, description="port of the Prometheus metrics; 0: none")] = 0
    drain_timeout_s: Annotated[float, Meta(ge=0, description="longest wait for running work after SIGTERM")] = 60.0


class WorkerProcessSettings(ProcessSettings, frozen=True, kw_only=True):
    """Base of the settings of the processes that compute."""

    cores: Annotated[tuple[int, ...], Meta(description="CPU cores this process may use, as 2,3; none: all")] = ()
