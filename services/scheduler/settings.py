"""Settings of the scheduler service."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from shared.runtime.process_settings import ProcessSettings


class SchedulerSettings(ProcessSettings, frozen=True, kw_only=True):
    """Settings of one scheduler."""

    queue_limit: Annotated[int, Meta(ge=1, description="requests of one model that may wait for room")] = 1024
    claim_timeout_s: Annotated[float, Meta(gt=0, description="how long a worker may take to answer")] = 2.0
    drain_timeout_s: Annotated[float, Meta(ge=0, description="longest wait for running work after SIGTERM")] = 10.0
