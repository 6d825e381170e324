"""Settings of the gateway service."""

from __future__ import annotations

import msgspec

from shared.bus.settings import BusSettings


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one gateway.

    `port` 0 takes a free one. `request_timeout_s`: the most a request may take. `body_limit_bytes`: the largest HTTP
    body. `session_limit`: generations at once, beyond which requests are refused.
    """

    id: str = ""
    model: str = "smollm2-135m-instruct"
    host: str = "127.0.0.1"
    port: int = 8080
    request_timeout_s: float = 600.0
    body_limit_bytes: int = 8 << 20
    session_limit: int = 4096
    attempts: int = 3
    beat_interval_s: float = 0.5
    drain_timeout_s: float = 30.0
    cache_dir: str = ""
    nats: BusSettings = BusSettings()
