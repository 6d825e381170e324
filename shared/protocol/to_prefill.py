"""What a prefill worker receives: runs, and decode's feedback on a transfer. Cancels are `to_decode.Cancel`."""

from __future__ import annotations

from shared.core import KvEncoding, KvRegion, SamplingParams
from shared.protocol.wire import U32, CacheSalt, Count, Message, Name, SessionId


class RunPrefill(Message, frozen=True, kw_only=True):
    """Compute the prompt, send the first token to `gateway` and the KV to the decode worker that holds the claim.

    What decode has of the prompt already, its first `cached_tokens`, is not sent. `kv_encoding` is how cells should
    travel, if this worker can: the claim takes them exact in any case. `begun`: see `PlaceRequest`. `trial`: no other
    prompt shares its calls, and the gateway is told before the first one.
    """

    session: SessionId
    epoch: U32
    gateway: Name
    fingerprint: str
    prompt_ids: bytes
    max_tokens: Count
    sampling: SamplingParams
    deadline_ms: Count
    decode: Name
    transfer: U32
    credit_bytes: Count
    cached_tokens: Count = 0
    emitted: Count = 0
    begun: bool = False
    cache_salt: CacheSalt = ""
    kv_encoding: str = KvEncoding.EXACT.value
    trial: bool = False


class RunAccepted(Message, frozen=True, kw_only=True):
    """Reply to `RunPrefill`: queued, behind `queued_tokens` prompt tokens, by this start (`boot`) of the worker.

    `beat` is the number of its last beat until now: later ones say so themselves.
    """

    session: SessionId
    epoch: U32
    worker: Name
    queued_tokens: Count
    boot: str = ""
    beat: Count = 0


class Credit(Message, frozen=True, kw_only=True, tag="credit", tag_field="kind"):
    """Prefill may have published `total_bytes` of payload since the transfer began: cumulative, so loss is harmless."""

    transfer: U32
    total_bytes: Count


class Nack(Message, frozen=True, kw_only=True, tag="nack", tag_field="kind"):
    """These regions are missing or were corrupt: publish them again, then the manifest.

    `credit_bytes` is the new cumulative credit, as in `Credit`: what was lost does not count against the sender.
    """

    transfer: U32
    missing: tuple[KvRegion, ...]
    credit_bytes: Count


class Imported(Message, frozen=True, kw_only=True, tag="imported", tag_field="kind"):
    """The cache is complete in decode; prefill may free its copy."""

    transfer: U32


class TransferRefused(Message, frozen=True, kw_only=True, tag="refused", tag_field="kind"):
    """Decode gave the session up; prefill frees its copy and stops sending."""

    transfer: U32
    reason: str


Feedback = Credit | Nack | Imported | TransferRefused
