"""The sending end of one transfer: chunks under credit, the manifest, repeats on request.

Used by the prefill service, which feeds it computed token ranges while it computes the next; it runs in one task of
that service. Knows no bus: it publishes through `ChunkBus`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Protocol

import msgspec

from shared.core import KvEncoding, KvRegion, ModelSpec
from shared.errors import HandoffFailed
from shared.kv import encoding
from shared.kv.credit import SendCredit
from shared.kv.int8 import Int8Codec
from shared.kv.plan import layers_per_chunk, split_region
from shared.protocol.kv_chunk import KvChunkHeader, encode_header
from shared.protocol.to_decode import CreditProbe, Manifest
from shared.protocol.to_prefill import Credit, Feedback, Imported, Nack, TransferRefused

Answer = Nack | Imported | TransferRefused

SILENCE_S = 1.0
REPEATS = 5


class KvSource(Protocol):
    """Where payloads come from: an `Engine`."""

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]: ...


class ChunkBus(Protocol):
    """Where one transfer's messages go."""

    async def chunk(self, header: bytes, *payload: memoryview) -> None: ...

    async def manifest(self, manifest: Manifest) -> None: ...

    async def probe(self, probe: CreditProbe) -> None: ...


class TransferTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The claim a transfer fulfils, as granted by the decode worker, which has the first `cached_tokens` already.

    `chunk_bytes` bounds a chunk's cells as they are in the cache; as int8 they take half of that.
    """

    session: str
    epoch: int
    transfer: int
    credit_bytes: int
    prompt_tokens: int
    chunk_bytes: int
    cached_tokens: int = 0
    encoding: KvEncoding = KvEncoding.EXACT


class Sender:
    """One transfer of `key`'s cache from `source`. Feed `computed`, then `finish`; run `send` in a task.

    Once sent, from the last computed token on: `publish_ms` until the last manifest was out, `visible_ms` until the
    word of decode came back that it has the whole cache.
    """

    def __init__(
        self,
        source: KvSource,
        key: str,
        spec: ModelSpec,
        target: TransferTarget,
        bus: ChunkBus,
        *,
        codec: Int8Codec = encoding.INT8,
    ) -> None:
        self._source = source
        self._key = key
        self._spec = spec
        self._target = target
        self._bus = bus
        self._codec = codec
        self._encoding = encoding.usable(target.encoding, spec.layout)
        self._credit = SendCredit(target.credit_bytes)
        # Half the window at most: then one chunk can go while the grant for the one before is on its way, and a
        # receiver that grants in steps of its window never leaves less than a chunk.
        self._chunk_bytes = min(target.chunk_bytes, target.credit_bytes // 2)
        self._computed: asyncio.Queue[KvRegion | None] = asyncio.Queue()
        self._answer: Answer | None = None
        self._answered = asyncio.Event()
        self._first_token = 0
        self._computed_at_s = 0.0
        self.chunks = 0
        self.resent_chunks = 0
        self.visible_ms = 0.0
        self.publish_ms = 0.0

    @property
    def encoding(self) -> KvEncoding:
        """How the cells travel."""
        return self._encoding

    @property
    def payload_bytes(self) -> int:
        return self._credit.published_bytes

    def computed(self, token_start: int, token_stop: int, *, layers: tuple[int, int] | None = None) -> None:
        """Tokens `[token_start, token_stop)` are in the cache and may go: those layers of them, or all.

        What decode has already is left out.
        """
        layer_start, layer_stop = layers or (0, self._spec.layout.layers)
        token_start = max(token_start, self._target.cached_tokens)
        if token_start < token_stop:
            self._computed.put_nowait(KvRegion(layer_start, layer_stop, token_start, token_stop))

    def layers_per_chunk(self, tokens: int) -> int:
        """How many layers of so many tokens make a chunk: a good measure for `computed`."""
        return layers_per_chunk(self._spec.layout, tokens, self._chunk_bytes)

    def finish(self, first_token: int, computed_at_s: float | None = None) -> None:
        """The prompt is computed, the manifest may follow the last chunk. `computed_at_s`: since when; None: now."""
        self._first_token = first_token
        self._computed_at_s = time.monotonic() if computed_at_s is None else computed_at_s
        self._computed.put_nowait(None)

    def on_feedback(self, feedback: Feedback) -> None:
        """Take in what the decode worker says. Feedback on another transfer is ignored."""
        if feedback.transfer != self._target.transfer:
            return
        if isinstance(feedback, Credit):
            self._credit.grant(feedback.total_bytes)
        elif not self._over:
            if isinstance(feedback, Nack):
                self._credit.grant(feedback.credit_bytes)
            else:
                self._credit.end()
            self._answer = feedback
            self._answered.set()

    async def send(self) -> None:
        """Publish everything until decode has it all. Raises HandoffFailed when it refuses or stays silent."""
        while (region := await self._computed.get()) is not None:
            await self._publish(split_region(self._spec.layout, region, self._chunk_bytes))
        for _ in range(REPEATS):
            answer = await self._ask()
            if isinstance(answer, Imported):
                self.visible_ms = self._since_compute_ms()
                return
            if isinstance(answer, TransferRefused):
                raise HandoffFailed(f"decode refused the transfer: {answer.reason}")
            if isinstance(answer, Nack):
                await self._repeat(answer.missing)
        raise HandoffFailed(f"decode did not confirm the transfer after {REPEATS} manifests")

    @property
    def _over(self) -> bool:
        """Whether decode has spoken its last word."""
        return isinstance(self._answer, Imported | TransferRefused)

    async def _ask(self) -> Answer | None:
        """Publish the manifest and wait for the answer. A NACK from before it is void: much was sent since."""
        if not self._over:
            self._answer = None
            self._answered.clear()
            await self._bus.manifest(self._manifest())
            self.publish_ms = self._since_compute_ms()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    await self._answered.wait()
        return self._answer

    async def _repeat(self, missing: Iterable[KvRegion]) -> None:
        for region in missing:
            if region.fits(self._spec.layout, self._target.prompt_tokens):
                before = self.chunks
                await self._publish(split_region(self._spec.layout, region, self._chunk_bytes))
                self.resent_chunks += self.chunks - before

    async def _publish(self, regions: Iterable[KvRegion]) -> None:
        for region in regions:
            layout = self._spec.layout
            if not await self._take_credit(encoding.wire_bytes(layout, region, self._encoding)):
                return
            cells = self._source.export_kv_parts(self._key, region)
            payload = encoding.encoded(cells, layout, region, self._encoding, self._codec)
            await self._bus.chunk(encode_header(self._header(region), *payload), *payload)
            self.chunks += 1

    async def _take_credit(self, size_bytes: int) -> bool:
        """Wait for credit; probe while none comes, since chunks lost on the way would hold it for ever.

        False: the transfer is over.
        """
        # The usual case, without the cost of a timer for every chunk.
        if self._credit.try_take(size_bytes):
            return True
        for _ in range(REPEATS):
            try:
                async with asyncio.timeout(SILENCE_S):
                    return await self._credit.take(size_bytes)
            except TimeoutError:
                probe = CreditProbe(transfer=self._target.transfer, published_bytes=self._credit.published_bytes)
                await self._bus.probe(probe)
        raise HandoffFailed(f"decode granted no credit for {REPEATS * SILENCE_S:.0f} s")

    def _header(self, region: KvRegion) -> KvChunkHeader:
        return KvChunkHeader(
            fingerprint=self._spec.fingerprint,
            session=self._target.session,
            epoch=self._target.epoch,
            transfer=self._target.transfer,
            chunk=self.chunks,
            dtype=self._spec.layout.dtype,
            region=region,
            encoding=self._encoding,
        )

    def _manifest(self) -> Manifest:
        return Manifest(
            session=self._target.session,
            epoch=self._target.epoch,
            transfer=self._target.transfer,
            prompt_tokens=self._target.prompt_tokens,
            chunks=self.chunks,
            payload_bytes=self._credit.published_bytes,
            first_token=self._first_token,
            since_compute_ms=self._since_compute_ms(),
        )

    def _since_compute_ms(self) -> float:
        return (time.monotonic() - self._computed_at_s) * 1000
