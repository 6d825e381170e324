"""Settings of the scheduler service."""

from __future__ import annotations

import msgspec

from shared.bus.settings import BusSettings


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`queue_limit`: requests that may wait for room. `claim_timeout_s`: how long a worker may take to answer."""

    id: str = ""
    queue_limit: int = 1024
    claim_timeout_s: float = 2.0
    beat_interval_s: float = 0.5
    drain_timeout_s: float = 10.0
    nats: BusSettings = BusSettings()
