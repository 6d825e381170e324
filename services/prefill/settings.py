"""Settings of the prefill service."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from services.prefill.order import Order
from shared.runtime.process_settings import WorkerProcessSettings


class PrefillSettings(WorkerProcessSettings, frozen=True, kw_only=True):
    """Settings of one prefill worker."""

    kv_bytes: Annotated[int, Meta(ge=1, description="KV memory of this worker")] = 512 << 20
    chunk_tokens: Annotated[
        int,
        Meta(ge=1, description="prompt tokens per call: the grain at which KV is published and cancels take effect"),
    ] = 256
    chunk_bytes: Annotated[int, Meta(ge=4096, description="largest KV chunk, below NATS max_payload")] = 1 << 20
    kv_int8: Annotated[bool, Meta(description="send caches as int8, which is lossy, to decodes that ask for it")] = True
    order: Annotated[
        Order, Meta(description="arrival: first come, first served; shortest: what is done soonest goes first")
    ] = Order.ARRIVAL
    aging_tokens_per_s: Annotated[
        float, Meta(gt=0, description="with order shortest, tokens a prompt counts less for each second it has waited")
    ] = 500.0
    queue_limit_tokens: Annotated[int, Meta(ge=1, description="prompt tokens that may wait")] = 65536
    fake_prefill_token_s: Annotated[float, Meta(ge=0, description="how long the fake engine takes per token")] = 0.0
