"""Settings of the decode service."""

from __future__ import annotations

import msgspec

from shared.bus.settings import BusSettings


class DecodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one decode worker.

    `batch_limit`: sessions held at once. `window_bytes`: KV payload one transfer may have in flight. `engine`: torch or
    fake.
    """

    id: str = ""
    model: str = "smollm2-135m-instruct"
    engine: str = "torch"
    dtype: str = "bfloat16"
    device: str = "cpu"
    cores: str = ""
    threads: int = 1
    kv_bytes: int = 1 << 30
    batch_limit: int = 64
    window_bytes: int = 16 << 20
    fake_step_s: float = 0.0
    beat_interval_s: float = 0.5
    drain_timeout_s: float = 30.0
    metrics_port: int = 0
    cache_dir: str = ""
    nats: BusSettings = BusSettings()
