"""Settings of the decode service."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from shared.core import KvEncoding
from shared.runtime.process_settings import WorkerProcessSettings


class DecodeSettings(WorkerProcessSettings, frozen=True, kw_only=True):
    """Settings of one decode worker."""

    kv_bytes: Annotated[int, Meta(ge=1, description="KV memory of this worker")] = 1 << 30
    batch_limit: Annotated[int, Meta(ge=1, description="sessions held at once")] = 64
    window_bytes: Annotated[int, Meta(ge=1, description="KV payload one transfer may have in flight")] = 16 << 20
    kv_encoding: Annotated[
        KvEncoding,
        Meta(
            description="how it asks for caches: exact; or int8: about half the bytes, lossy, other tokens may follow"
        ),
    ] = KvEncoding.EXACT
    claim_lease_s: Annotated[float, Meta(gt=0, description="silence of prefill after which a claim is given up")] = 30.0
    fake_step_s: Annotated[float, Meta(ge=0, description="how long a step of the fake engine takes")] = 0.0
