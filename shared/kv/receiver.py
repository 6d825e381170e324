"""The receiving end of one transfer: a plain object that is fed bytes and says what to answer.

Knows no bus. Every chunk is checked before a byte of it reaches the engine; what is bad stays missing and is asked
for again when the manifest comes. Used by the decode service.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

import msgspec

from shared.core import KvEncoding, KvRegion, ModelSpec
from shared.errors import ProtocolError
from shared.kv import encoding
from shared.kv.coverage import Coverage
from shared.kv.credit import ReceiveCredit
from shared.kv.int8 import Int8Codec
from shared.protocol.kv_chunk import HEADER_BYTES, KvChunkHeader, decode_chunk
from shared.protocol.to_decode import CreditProbe, Manifest
from shared.protocol.to_prefill import Credit, Feedback, Imported, Nack, TransferRefused

logger = logging.getLogger(__name__)

NACK_REGIONS = 256
NACK_ROUNDS = 5


class KvSink(Protocol):
    """Where payloads go: `Engine.import_kv`."""

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None: ...


class TransferIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk must say of itself to belong to a transfer."""

    session: str
    epoch: int
    transfer: int


class Receiver:
    """Takes in the chunks of one transfer into `sink` under `key`.

    `accepts` says how cells may travel, first what is asked for; those of another dtype than `spec` has are converted.
    `encoding` is exact if all cells came so, those of the cached beginning too, for all that is known; `import_ms` is
    the time spent on all chunks. `on_chunk` and `on_manifest` return the feedback to send, if any. Once `complete`,
    further messages are answered again but change nothing.
    """

    def __init__(
        self,
        sink: KvSink,
        key: str,
        spec: ModelSpec,
        identity: TransferIdentity,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        window_bytes: int,
        accepts: Sequence[KvEncoding] = (KvEncoding.EXACT,),
        codec: Int8Codec = encoding.INT8,
    ) -> None:
        self._sink = sink
        self._key = key
        self._spec = spec
        self._identity = identity
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._coverage = Coverage(spec.layout, cached_tokens, prompt_tokens)
        self._credit = ReceiveCredit(window_bytes)
        self._accepts = accepts
        self._codec = codec
        # What was here before came by an earlier transfer, perhaps in the way that is asked for first.
        self.encoding = next(iter(accepts)) if cached_tokens else KvEncoding.EXACT
        self._their_dtype = spec.layout.dtype
        self._nacks = 0
        self.complete = False
        self.chunks = 0
        self.payload_bytes = 0
        self.duplicates = 0
        self.rejected = 0
        self.import_ms = 0.0

    @property
    def travelled(self) -> str:
        """How the cells came, in words, for people who must see whether that was lossy."""
        return encoding.travelled(self.encoding, self._their_dtype, self._spec.layout.dtype)

    def on_chunk(self, data: bytes | memoryview) -> Feedback | None:
        """Take in one chunk. A bad one is counted and dropped; a known one is a no-op; both give back their credit.

        One of another transfer gives back none: it spent none of this one's.
        """
        started_s = time.monotonic()
        try:
            return self._take_in(data)
        finally:
            self.import_ms += (time.monotonic() - started_s) * 1000

    def _take_in(self, data: bytes | memoryview) -> Feedback | None:
        spent_bytes = max(0, len(data) - HEADER_BYTES)
        try:
            header, payload = decode_chunk(data)
            if not self._is_ours(header):
                spent_bytes = 0
            self._check(header, payload)
            self._write(header, payload)
        except ProtocolError as error:
            self.rejected += 1
            logger.warning("KV chunk refused: %s", error, extra={"session": self._identity.session})
        total = self._credit.take_in(spent_bytes)
        return None if total is None or self.complete else Credit(transfer=self._identity.transfer, total_bytes=total)

    def on_probe(self, probe: CreditProbe) -> Feedback | None:
        """The sender is out of credit and waits: what was lost on the way must not count against it."""
        if probe.transfer != self._identity.transfer:
            return None
        return Credit(transfer=probe.transfer, total_bytes=self._credit.settle(probe.published_bytes))

    def on_manifest(self, manifest: Manifest) -> Feedback | None:
        """All has been sent: `Imported`, or a `Nack` for what is missing, or a refusal when it does not fit."""
        if manifest.transfer != self._identity.transfer:
            return None
        if manifest.prompt_tokens != self._prompt_tokens:
            reason = f"manifest for {manifest.prompt_tokens} tokens, claimed {self._prompt_tokens}"
            return TransferRefused(transfer=manifest.transfer, reason=reason)
        self.complete = self.complete or self._coverage.complete
        if self.complete:
            return Imported(transfer=manifest.transfer)
        self._nacks += 1
        if self._nacks > NACK_ROUNDS:
            return TransferRefused(transfer=manifest.transfer, reason=f"incomplete after {NACK_ROUNDS} repeats")
        missing = tuple(self._coverage.missing()[:NACK_REGIONS])
        total = self._credit.settle(manifest.payload_bytes)
        return Nack(transfer=manifest.transfer, missing=missing, credit_bytes=total)

    def _is_ours(self, header: KvChunkHeader) -> bool:
        ours = self._identity
        return (header.session, header.epoch, header.transfer) == (ours.session, ours.epoch, ours.transfer)

    def _check(self, header: KvChunkHeader, payload: memoryview) -> None:
        if not self._is_ours(header):
            raise ProtocolError(f"chunk of session {header.session} epoch {header.epoch} transfer {header.transfer}")
        if header.fingerprint != self._spec.fingerprint:
            raise ProtocolError(f"chunk of model {header.fingerprint}")
        if header.encoding not in self._accepts:
            raise ProtocolError(f"chunk as {header.encoding.label}, which was not asked for")
        if not header.region.fits(self._spec.layout, self._prompt_tokens):
            raise ProtocolError(f"chunk of a region outside the sequence: {header.region}")
        if header.region.token_start < self._cached_tokens:
            raise ProtocolError(f"chunk of a region that was here before the transfer: {header.region}")
        theirs = encoding.in_dtype(self._spec.layout, header.dtype)
        expected = encoding.wire_bytes(theirs, header.region, header.encoding)
        if len(payload) != expected:
            raise ProtocolError(f"chunk of {len(payload)} bytes for a region of {expected}")

    def _write(self, header: KvChunkHeader, payload: memoryview) -> None:
        region = header.region
        if self.complete or self._coverage.holds(region):
            self.duplicates += 1
            return
        cells = encoding.decoded(payload, header, self._spec.layout, self._codec)
        self._sink.import_kv(self._key, region, cells)
        self._coverage.add(region)
        if header.encoding is not KvEncoding.EXACT:
            self.encoding = header.encoding
        self._their_dtype = header.dtype
        self.chunks += 1
        self.payload_bytes += len(payload)
