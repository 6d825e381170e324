"""Settings of the prefill service."""

from __future__ import annotations

import msgspec

from shared.bus.settings import BusSettings


class PrefillSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one prefill worker.

    `chunk_tokens`: prompt tokens computed in one call, and the grain at which KV is published and cancels take effect.
    `chunk_bytes`: the largest KV chunk. `queue_limit_tokens`: prompt tokens that may wait. `engine`: torch or fake.
    """

    id: str = ""
    model: str = "smollm2-135m-instruct"
    engine: str = "torch"
    dtype: str = "bfloat16"
    device: str = "cpu"
    cores: str = ""
    threads: int = 1
    kv_bytes: int = 512 << 20
    chunk_tokens: int = 256
    chunk_bytes: int = 1 << 20
    queue_limit_tokens: int = 65536
    fake_prefill_token_s: float = 0.0
    beat_interval_s: float = 0.5
    drain_timeout_s: float = 30.0
    metrics_port: int = 0
    cache_dir: str = ""
    nats: BusSettings = BusSettings()
