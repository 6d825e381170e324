"""What a prefill worker receives: runs, and decode's feedback on a transfer. Cancels are `to_decode.Cancel`."""

from __future__ import annotations

from shared.core import KvRegion, SamplingParams
from shared.protocol.wire import Message


class RunPrefill(Message, frozen=True, kw_only=True):
    """Compute the prompt, send the first token to `gateway` and the KV to the decode worker that holds the claim."""

    session: str
    epoch: int
    gateway: str
    fingerprint: str
    prompt_ids: bytes
    max_tokens: int
    sampling: SamplingParams
    deadline_ms: int
    decode: str
    transfer: int
    credit_bytes: int
    cached_tokens: int = 0
    emitted: int = 0


class RunAccepted(Message, frozen=True, kw_only=True):
    """Reply to `RunPrefill`: queued, behind `queued_tokens` prompt tokens."""

    session: str
    epoch: int
    worker: str
    queued_tokens: int


class Credit(Message, frozen=True, kw_only=True, tag="credit", tag_field="kind"):
    """Prefill may have published `total_bytes` of payload since the transfer began: cumulative, so loss is harmless."""

    transfer: int
    total_bytes: int


class Nack(Message, frozen=True, kw_only=True, tag="nack", tag_field="kind"):
    """These regions are missing or were corrupt: publish them again, then the manifest.

    `credit_bytes` is the new cumulative credit, as in `Credit`: what was lost does not count against the sender.
    """

    transfer: int
    missing: tuple[KvRegion, ...]
    credit_bytes: int


class Imported(Message, frozen=True, kw_only=True, tag="imported", tag_field="kind"):
    """The cache is complete in decode; prefill may free its copy."""

    transfer: int


class TransferRefused(Message, frozen=True, kw_only=True, tag="refused", tag_field="kind"):
    """Decode gave the session up; prefill frees its copy and stops sending."""

    transfer: int
    reason: str


Feedback = Credit | Nack | Imported | TransferRefused
