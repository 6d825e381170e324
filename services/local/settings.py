"""Settings of `baton up` and `baton quickstart`: a whole Baton on this machine."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from shared.bus.settings import BusSettings
from shared.runtime.process_settings import EngineKind, LogFormat, LogLevel

DEFAULT_PROMPT = "Explain in three sentences why the sky is blue."


class UpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What runs and where. Settings of the services themselves go through the environment or a file."""

    prefill: Annotated[int, Meta(ge=1, le=256, description="prefill workers")] = 1
    decode: Annotated[int, Meta(ge=1, le=256, description="decode workers")] = 1
    model: Annotated[str, Meta(description="name of a model, or a folder that holds one")] = "smollm2-135m-instruct"
    http_host: Annotated[str, Meta(description="address of the HTTP door")] = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=1, le=65535, description="port of the HTTP door")] = 8080
    nats: BusSettings = BusSettings(url="")
    nats_server_port: Annotated[int, Meta(ge=0, le=65535, description="port of the embedded NATS; 0: a free one")] = 0
    engine: Annotated[EngineKind, Meta(description="torch or fake")] = EngineKind.TORCH
    dtype: Annotated[str, Meta(description="bfloat16, float16 or float32")] = "bfloat16"
    device: Annotated[str, Meta(description="cpu or cuda")] = "cpu"
    threads: Annotated[
        int, Meta(ge=0, description="threads, and cores, of each worker; 0: the machine's cores, evenly")
    ] = 0
    cache_dir: Annotated[str, Meta(description="where pulled models are kept; empty: the user's cache")] = ""
    start_timeout_s: Annotated[float, Meta(gt=0, description="longest wait until all is ready")] = 300.0
    drain_timeout_s: Annotated[float, Meta(ge=0, description="longest wait for running answers at the end")] = 30.0
    log_dir: Annotated[str, Meta(description="folder for a log file per process; empty: to the terminal")] = ""
    log_level: Annotated[LogLevel, Meta(description="least severe records to log")] = LogLevel.INFO
    log_format: Annotated[LogFormat, Meta(description="a line per record, as key=value pairs or as JSON")] = (
        LogFormat.KEY_VALUE
    )


class QuickstartSettings(UpSettings, frozen=True, kw_only=True):
    """`up`, and one answer shown."""

    prompt: Annotated[str, Meta(description="what to ask")] = DEFAULT_PROMPT
    max_tokens: Annotated[int, Meta(ge=1, description="longest answer")] = 128
    once: Annotated[bool, Meta(description="stop everything after the answer")] = False
