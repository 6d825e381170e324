"""A sender and a receiver joined by a channel that loses, repeats, reorders and corrupts, as told."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import numpy as np

from shared.core import DTYPE_SIZE_BYTES, KvEncoding, KvLayout, KvRegion, ModelSpec
from shared.errors import ProtocolError
from shared.kv.cells import convert
from shared.kv.receiver import Receiver, TransferIdentity
from shared.kv.sender import Sender, TransferTarget
from shared.protocol.kv_chunk import HEADER_BYTES
from shared.protocol.to_decode import CreditProbe, Manifest
from shared.protocol.to_prefill import Credit, Feedback, Nack
from shared.protocol.wire import Message, decode, encode

SESSION = "ab" * 16
EPOCH = 1
TRANSFER = 77
FINGERPRINT = "0123456789abcdef"


def spec_of(layout: KvLayout) -> ModelSpec:
    return ModelSpec(
        name="m", fingerprint=FINGERPRINT, vocab_size=100, context_tokens=4096, eos_token_ids=(), layout=layout
    )


class Cache:
    """KV bytes `[layer, k|v, kv_head, token, bytes of a head]` of one sequence."""

    def __init__(self, layout: KvLayout, tokens: int) -> None:
        head_bytes = layout.token_layer_bytes // (2 * layout.kv_heads)
        self.cells = np.zeros((layout.layers, 2, layout.kv_heads, tokens, head_bytes), dtype=np.uint8)

    def fill(self, seed: int) -> Cache:
        self.cells[:] = np.random.default_rng(seed).integers(1, 256, self.cells.shape, dtype=np.uint8)
        return self

    def fill_numbers(self, seed: int, dtype: str) -> Cache:
        """Numbers of `dtype`, as a model makes them, instead of any bytes."""
        numbers = np.random.default_rng(seed).normal(0, 4, self.cells.nbytes // DTYPE_SIZE_BYTES[dtype])
        cells = convert(numbers.astype("<f4").tobytes(), "float32", dtype)
        self.cells[:] = np.frombuffer(cells, dtype=np.uint8).reshape(self.cells.shape)
        return self

    def export_kv(self, key: str, region: KvRegion) -> memoryview:
        return memoryview(self._block(region).tobytes())

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        return [self.export_kv(key, region)]

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        block = self._block(region)
        block[:] = np.frombuffer(payload, dtype=np.uint8).reshape(block.shape)

    def _block(self, region: KvRegion) -> np.ndarray:
        return self.cells[region.layer_start : region.layer_stop, :, :, region.token_start : region.token_stop]


class CheckedSink(Cache):
    """Refuses to take in a byte that differs from the source's."""

    def __init__(self, layout: KvLayout, source: Cache) -> None:
        super().__init__(layout, source.cells.shape[3])
        self._source = source
        self.imports = 0

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        assert bytes(payload) == bytes(self._source.export_kv(key, region))
        super().import_kv(key, region, payload)
        self.imports += 1


class OtherSink(Cache):
    """A cache of another dtype, or one filled with int8: refuses a cell that is further off than it may be."""

    def __init__(self, layout: KvLayout, source: Cache, source_dtype: str, encoding: KvEncoding) -> None:
        super().__init__(layout, source.cells.shape[3])
        self._dtype = layout.dtype
        self._source = source
        self._source_dtype = source_dtype
        self._exact = encoding is KvEncoding.EXACT
        self.imports = 0

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        there = self._source.export_kv(key, region)
        if self._exact:
            assert bytes(payload) == bytes(convert(there, self._source_dtype, self._dtype))
        else:
            heads = region.layers * 2 * self.cells.shape[2]
            self._check_near(_numbers(payload, self._dtype, heads), _numbers(there, self._source_dtype, heads))
        super().import_kv(key, region, payload)
        self.imports += 1

    def _check_near(self, here: np.ndarray, there: np.ndarray) -> None:
        """Half a scale, and what rounding to the sink's own dtype adds."""
        largest = np.abs(there).max(axis=1, keepdims=True)
        assert (np.abs(here - there) <= largest * (0.5001 / 127 + 1 / 256)).all()


def _numbers(cells: memoryview, dtype: str, heads: int) -> np.ndarray:
    return np.frombuffer(convert(cells, dtype, "float32"), dtype="<f4").reshape(heads, -1)


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Probabilities per message."""

    lose: float = 0.0
    repeat: float = 0.0
    corrupt: float = 0.0
    hold: float = 0.0
    feedback_too: bool = True


PERFECT = Faults()


class Channel:
    """The sender's `ChunkBus`, and the way back. Counts what is published against what was granted."""

    def __init__(self, faults: Faults, seed: int, credit_bytes: int) -> None:
        self._faults = faults
        self._random = random.Random(seed)
        self._held: list[tuple[Callable[[bytes], None], bytes]] = []
        self._granted_bytes = credit_bytes
        self.published_bytes = 0
        self.probes = 0
        self.manifests = 0
        self.sizes: list[int] = []
        self.sender: Sender
        self.receiver: Receiver

    async def chunk(self, header: bytes, payload: memoryview) -> None:
        self.sizes.append(len(payload))
        self.published_bytes += len(payload)
        assert self.published_bytes <= self._granted_bytes, "published without credit"
        self._carry(self._chunk_arrives, header + bytes(payload))

    async def manifest(self, manifest: Manifest) -> None:
        self.manifests += 1
        self._carry(self._manifest_arrives, encode(manifest))

    async def probe(self, probe: CreditProbe) -> None:
        self.probes += 1
        self._carry(self._probe_arrives, encode(probe))

    def _carry(self, arrive: Callable[[bytes], None], data: bytes, *, faulty: bool = True) -> None:
        draw = self._random.random
        if not faulty:
            arrive(data)
            return
        if self._held and draw() < 0.3:
            late_arrive, late = self._held.pop(self._random.randrange(len(self._held)))
            late_arrive(late)
        if draw() < self._faults.lose:
            return
        if draw() < self._faults.hold:
            self._held.append((arrive, data))
            return
        if draw() < self._faults.corrupt:
            data = self._corrupted(data)
        arrive(data)
        if draw() < self._faults.repeat:
            arrive(data)

    def _corrupted(self, data: bytes) -> bytes:
        """KV bytes are sealed by checksums. A control message is not: it is cut instead, which every decoder sees."""
        position = self._random.randrange(len(data))
        if len(data) < HEADER_BYTES or not data.startswith(b"BKVC") or self._random.random() < 0.3:
            return data[:position]
        return data[:position] + bytes([data[position] ^ self._random.randrange(1, 256)]) + data[position + 1 :]

    def _chunk_arrives(self, data: bytes) -> None:
        self._answer(self.receiver.on_chunk(data))

    def _manifest_arrives(self, data: bytes) -> None:
        manifest = _read(Manifest, data)
        if manifest is not None:
            self._answer(self.receiver.on_manifest(manifest))

    def _probe_arrives(self, data: bytes) -> None:
        probe = _read(CreditProbe, data)
        if probe is not None:
            self._answer(self.receiver.on_probe(probe))

    def _answer(self, feedback: Feedback | None) -> None:
        if feedback is not None:
            self._carry(self._feedback_arrives, encode(feedback), faulty=self._faults.feedback_too)

    def _feedback_arrives(self, data: bytes) -> None:
        feedback = _read(Feedback, data)  # type: ignore[arg-type]
        if isinstance(feedback, Credit):
            self._granted_bytes = max(self._granted_bytes, feedback.total_bytes)
        if isinstance(feedback, Nack):
            self._granted_bytes = max(self._granted_bytes, feedback.credit_bytes)
        if feedback is not None:
            self.sender.on_feedback(feedback)


def _read(kind: type[Message], data: bytes) -> Message | None:
    try:
        return decode(kind, data)
    except ProtocolError:
        return None


class Pair:
    """One transfer, ready to run."""

    def __init__(
        self,
        layout: KvLayout,
        *,
        tokens: int,
        cached_tokens: int = 0,
        chunk_bytes: int = 64,
        window_bytes: int = 256,
        faults: Faults = PERFECT,
        seed: int = 0,
        sink_dtype: str = "",
        encoding: KvEncoding = KvEncoding.EXACT,
    ) -> None:
        """With `sink_dtype` or `encoding`, the source holds numbers, and the sink checks that they come near enough."""
        spec = spec_of(layout)
        sink_layout = msgspec.structs.replace(layout, dtype=sink_dtype or layout.dtype)
        self.tokens = tokens
        self.cached_tokens = cached_tokens
        self.source = Cache(layout, tokens)
        self.sink: CheckedSink | OtherSink
        if sink_dtype or encoding is not KvEncoding.EXACT:
            self.source.fill_numbers(seed, layout.dtype)
            self.sink = OtherSink(sink_layout, self.source, layout.dtype, encoding)
        else:
            self.source.fill(seed)
            self.sink = CheckedSink(layout, self.source)
            self.sink.cells[:, :, :, :cached_tokens] = self.source.cells[:, :, :, :cached_tokens]
        self.channel = Channel(faults, seed, window_bytes)
        target = TransferTarget(
            session=SESSION,
            epoch=EPOCH,
            transfer=TRANSFER,
            credit_bytes=window_bytes,
            prompt_tokens=tokens,
            chunk_bytes=chunk_bytes,
            encoding=encoding,
        )
        self.sender = self.channel.sender = Sender(self.source, "key", spec, target, self.channel)
        self.receiver = self.channel.receiver = Receiver(
            self.sink,
            "key",
            spec_of(sink_layout),
            TransferIdentity(session=SESSION, epoch=EPOCH, transfer=TRANSFER),
            prompt_tokens=tokens,
            cached_tokens=cached_tokens,
            window_bytes=window_bytes,
            accepts=(encoding, KvEncoding.EXACT),
        )

    async def send(self, slice_tokens: int | None = None) -> None:
        """Feed all tokens in slices, and send. Raises HandoffFailed."""
        step = slice_tokens or self.tokens
        for start in range(self.cached_tokens, self.tokens, step):
            self.sender.computed(start, min(start + step, self.tokens))
        self.sender.finish(first_token=3)
        await self.sender.send()

    @property
    def identical(self) -> bool:
        return bool((self.sink.cells == self.source.cells).all())
