"""What a receiver takes in, what it refuses, and what it answers."""

from __future__ import annotations

import msgspec
import pytest
from kv_pair import EPOCH, FINGERPRINT, SESSION, TRANSFER, Cache, CheckedSink, spec_of

from shared.core import KvEncoding, KvLayout, KvRegion
from shared.kv.receiver import NACK_REGIONS, NACK_ROUNDS, Receiver, TransferIdentity
from shared.protocol.kv_chunk import HEADER_BYTES, KvChunkHeader, encode_header
from shared.protocol.to_decode import CreditProbe, Manifest
from shared.protocol.to_prefill import Credit, Imported, Nack, TransferRefused

LAYOUT = KvLayout(layers=2, kv_heads=1, head_dim=2, dtype="float32")
TOKENS = 8
CACHED = 2
WINDOW = 1 << 20
HEADER = KvChunkHeader(
    fingerprint=FINGERPRINT,
    session=SESSION,
    epoch=EPOCH,
    transfer=TRANSFER,
    chunk=0,
    dtype="float32",
    region=KvRegion(0, 2, CACHED, TOKENS),
)
MANIFEST = Manifest(
    session=SESSION,
    epoch=EPOCH,
    transfer=TRANSFER,
    prompt_tokens=TOKENS,
    chunks=1,
    payload_bytes=0,
    first_token=1,
    since_compute_ms=0.0,
)


class Setting(msgspec.Struct):
    source: Cache
    sink: CheckedSink
    receiver: Receiver

    def chunk(self, content: KvRegion = HEADER.region, **changes: object) -> bytes:
        """A sealed chunk with the bytes of `content`, honest but for `changes` of its header."""
        payload = self.source.export_kv("key", content)
        header = msgspec.structs.replace(HEADER, region=content)
        return encode_header(msgspec.structs.replace(header, **changes), payload) + bytes(payload)


def setting(window_bytes: int = WINDOW) -> Setting:
    source = Cache(LAYOUT, TOKENS).fill(1)
    sink = CheckedSink(LAYOUT, source)
    identity = TransferIdentity(session=SESSION, epoch=EPOCH, transfer=TRANSFER)
    receiver = Receiver(
        sink,
        "key",
        spec_of(LAYOUT),
        identity,
        prompt_tokens=TOKENS,
        cached_tokens=CACHED,
        window_bytes=window_bytes,
    )
    return Setting(source, sink, receiver)


@pytest.fixture
def it() -> Setting:
    return setting()


def test_a_whole_transfer_is_imported(it: Setting) -> None:
    assert it.receiver.on_chunk(it.chunk()) is None
    assert it.receiver.on_manifest(MANIFEST) == Imported(transfer=TRANSFER)
    assert it.receiver.complete
    assert it.receiver.payload_bytes == HEADER.region.size_bytes(LAYOUT)
    assert (it.sink.cells[:, :, :, CACHED:] == it.source.cells[:, :, :, CACHED:]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"session": "cd" * 16},
        {"epoch": EPOCH - 1},
        {"epoch": EPOCH + 1},
        {"transfer": TRANSFER + 1},
        {"fingerprint": "f" * 16},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"encoding": KvEncoding.INT8},
        {"region": KvRegion(0, 3, CACHED, TOKENS)},
        {"region": KvRegion(0, 2, CACHED, TOKENS + 1)},
        {"region": KvRegion(0, 2, TOKENS, TOKENS + 6)},
        {"region": KvRegion(0, 2, CACHED - 1, TOKENS - 1)},
        {"region": KvRegion(0, 2, TOKENS, CACHED)},
        {"region": KvRegion(1, 1, CACHED, TOKENS)},
        {"region": KvRegion(0, 1, CACHED, TOKENS)},
        {"region": KvRegion(0, 2, CACHED, TOKENS - 1)},
    ],
    ids=str,
)
def test_a_sealed_chunk_that_does_not_belong_here_is_refused(it: Setting, changes: dict[str, object]) -> None:
    it.receiver.on_chunk(it.chunk(**changes))  # type: ignore[arg-type]
    assert (it.receiver.rejected, it.receiver.chunks, it.sink.imports) == (1, 0, 0)
    assert isinstance(it.receiver.on_manifest(MANIFEST), Nack)


@pytest.mark.parametrize("data", [b"", b"garbage", bytes(HEADER_BYTES), bytes(4096)], ids=len)
def test_bytes_that_are_no_chunk_are_refused(it: Setting, data: bytes) -> None:
    it.receiver.on_chunk(data)
    assert (it.receiver.rejected, it.sink.imports) == (1, 0)


def test_a_repeated_chunk_is_not_written_again(it: Setting) -> None:
    for _ in range(3):
        it.receiver.on_chunk(it.chunk())
    assert (it.receiver.chunks, it.receiver.duplicates, it.sink.imports) == (1, 2, 1)


def test_nothing_is_written_once_complete(it: Setting) -> None:
    """The sequence may be decoding by then."""
    it.receiver.on_chunk(it.chunk())
    it.receiver.on_manifest(MANIFEST)
    it.receiver.on_chunk(it.chunk(KvRegion(0, 1, CACHED, TOKENS)))
    assert it.sink.imports == 1


def test_a_manifest_is_answered_as_often_as_it_comes(it: Setting) -> None:
    it.receiver.on_chunk(it.chunk())
    assert [it.receiver.on_manifest(MANIFEST) for _ in range(20)] == [Imported(transfer=TRANSFER)] * 20


def test_what_is_missing_is_asked_for(it: Setting) -> None:
    it.receiver.on_chunk(it.chunk(KvRegion(0, 2, 3, 5)))
    answer = it.receiver.on_manifest(MANIFEST)
    assert isinstance(answer, Nack)
    assert answer.missing == (KvRegion(0, 2, 2, 3), KvRegion(0, 2, 5, 8))


def test_what_was_lost_gives_its_credit_back_with_the_nack(it: Setting) -> None:
    answer = it.receiver.on_manifest(msgspec.structs.replace(MANIFEST, payload_bytes=5000))
    assert isinstance(answer, Nack)
    assert answer.credit_bytes == 5000 + WINDOW


def test_it_gives_up_after_so_many_repeats(it: Setting) -> None:
    answers = [it.receiver.on_manifest(MANIFEST) for _ in range(NACK_ROUNDS + 1)]
    assert all(isinstance(answer, Nack) for answer in answers[:-1])
    assert isinstance(answers[-1], TransferRefused)


def test_a_manifest_for_another_length_is_refused(it: Setting) -> None:
    answer = it.receiver.on_manifest(msgspec.structs.replace(MANIFEST, prompt_tokens=TOKENS - 1))
    assert isinstance(answer, TransferRefused)


def test_messages_of_another_transfer_are_not_answered(it: Setting) -> None:
    assert it.receiver.on_manifest(msgspec.structs.replace(MANIFEST, transfer=1)) is None
    assert it.receiver.on_probe(CreditProbe(transfer=1, published_bytes=10)) is None


def test_a_probe_is_answered_with_the_credit_of_what_was_lost(it: Setting) -> None:
    answer = it.receiver.on_probe(CreditProbe(transfer=TRANSFER, published_bytes=700))
    assert answer == Credit(transfer=TRANSFER, total_bytes=700 + WINDOW)


def test_chunks_good_bad_and_repeated_give_their_credit_back() -> None:
    it = setting(window_bytes=64)
    chunk = it.chunk()
    spent = len(chunk) - HEADER_BYTES
    corrupt = chunk[:-1] + bytes([chunk[-1] ^ 1])
    totals = [it.receiver.on_chunk(data) for data in (chunk, chunk, corrupt)]
    assert totals == [Credit(transfer=TRANSFER, total_bytes=count * spent + 64) for count in (1, 2, 3)]


@pytest.mark.parametrize("changes", [{"transfer": 5}, {"session": "cd" * 16}, {"epoch": 0}], ids=str)
def test_a_chunk_of_another_transfer_gives_no_credit(changes: dict[str, object]) -> None:
    """Its sender, a zombie perhaps, spent none of this transfer's: the window must not grow by it."""
    it = setting(window_bytes=64)
    assert [it.receiver.on_chunk(it.chunk(**changes)) for _ in range(10)] == [None] * 10  # type: ignore[arg-type]


def test_a_nack_is_bounded() -> None:
    tokens = 4 * NACK_REGIONS
    layout = KvLayout(layers=1, kv_heads=1, head_dim=1, dtype="float32")
    source = Cache(layout, tokens).fill(1)
    receiver = Receiver(
        CheckedSink(layout, source),
        "key",
        spec_of(layout),
        TransferIdentity(session=SESSION, epoch=EPOCH, transfer=TRANSFER),
        prompt_tokens=tokens,
        cached_tokens=0,
        window_bytes=WINDOW,
    )
    for token in range(0, tokens, 2):
        region = KvRegion(0, 1, token, token + 1)
        payload = source.export_kv("key", region)
        receiver.on_chunk(encode_header(msgspec.structs.replace(HEADER, region=region), payload) + bytes(payload))
    answer = receiver.on_manifest(msgspec.structs.replace(MANIFEST, prompt_tokens=tokens))
    assert isinstance(answer, Nack)
    assert len(answer.missing) == NACK_REGIONS
