"""What a decode worker receives: claims, the manifest that closes a transfer, cancels (KV chunks: `kv_chunk`)."""

from __future__ import annotations

from shared.core import KvEncoding, SamplingParams
from shared.protocol.wire import U32, CacheSalt, Count, Message, Name, SessionId


class Claim(Message, frozen=True, kw_only=True):
    """Reserve space for a session and be ready to receive its KV.

    `trial`: its first step is made alone, and the gateway is told before.
    """

    session: SessionId
    epoch: U32
    gateway: Name
    fingerprint: str
    prompt_ids: bytes
    max_tokens: Count
    sampling: SamplingParams
    deadline_ms: Count
    emitted: Count = 0
    trial: bool = False
    cache_salt: CacheSalt = ""


class ClaimGranted(Message, frozen=True, kw_only=True):
    """Reply to `Claim`: the space is reserved and the KV subject is subscribed.

    `credit_bytes` is how much KV payload may be published before the first `Credit`; `cached_tokens` is the prefix
    the worker holds already; `transfer` must stand in every chunk. `kv_encodings`: how cells may travel (`KvEncoding`),
    what is wanted first. `boot` is which start of the worker holds it, `beat` the number of its last beat until now:
    later ones say so themselves.
    """

    session: SessionId
    epoch: U32
    worker: Name
    transfer: U32
    credit_bytes: Count
    cached_tokens: Count = 0
    kv_encodings: tuple[str, ...] = (KvEncoding.EXACT.value,)
    boot: str = ""
    beat: Count = 0


class PrefillReport(Message, frozen=True, kw_only=True):
    """What the prefill phase did: durations on the worker's own clock, in milliseconds.

    `cached_tokens` of the prompt were in its prefix cache, the others were computed.
    """

    worker: Name
    queue_ms: float
    compute_ms: float
    computed_tokens: Count
    cached_tokens: Count = 0


class Manifest(Message, frozen=True, kw_only=True):
    """Closes a transfer: everything before `prompt_tokens` has been published; decode goes on from `first_token`.

    `since_compute_ms` is the time between the last computed token and this message, on prefill's clock.
    """

    session: SessionId
    epoch: U32
    transfer: U32
    prompt_tokens: Count
    chunks: Count
    payload_bytes: Count
    first_token: Count
    since_compute_ms: float


class CreditProbe(Message, frozen=True, kw_only=True):
    """Prefill has waited for credit: it has published `published_bytes` of payload, arrived or lost by now."""

    transfer: U32
    published_bytes: Count


class Cancel(Message, frozen=True, kw_only=True):
    """To a prefill or decode worker: free everything of this session, in this epoch or an older one.

    With `fence`, what still arrives for these epochs is refused too. A scheduler that takes back its own claim, to try
    again later in the same epoch, leaves the fence down.
    """

    session: SessionId
    epoch: U32
    fence: bool = True
    reason: str = "cancelled"
