"""What a receiver that asked for int8 refuses of it: nothing bad reaches the cache."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kv_pair import EPOCH, FINGERPRINT, SESSION, TRANSFER, Cache, spec_of

from shared.core import KvEncoding, KvLayout, KvRegion
from shared.kv.int8 import Int8Codec
from shared.kv.receiver import Receiver, TransferIdentity
from shared.protocol.kv_chunk import HEADER_BYTES, KvChunkHeader, encode_header
from shared.protocol.to_prefill import Credit

LAYOUT = KvLayout(layers=2, kv_heads=1, head_dim=8, dtype="bfloat16")
TOKENS = 4
HEADS = 2 * 2 * 1
REGION = KvRegion(0, 2, 0, TOKENS)
HEADER = KvChunkHeader(
    fingerprint=FINGERPRINT,
    session=SESSION,
    epoch=EPOCH,
    transfer=TRANSFER,
    chunk=0,
    dtype="bfloat16",
    region=REGION,
    encoding=KvEncoding.INT8,
)
GOOD = bytes(
    Int8Codec().quantised(Cache(LAYOUT, TOKENS).fill_numbers(1, "bfloat16").export_kv("", REGION), "bfloat16", HEADS)
)


class Sink:
    def __init__(self) -> None:
        self.imports: list[bytes] = []

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        self.imports.append(bytes(payload))


def take_in(payload: bytes, *, accepts: tuple[KvEncoding, ...] = tuple(KvEncoding), **changes: object) -> Sink:
    """What of one sealed chunk reaches the cache."""
    sink = Sink()
    receiver = Receiver(
        sink,
        "key",
        spec_of(LAYOUT),
        TransferIdentity(session=SESSION, epoch=EPOCH, transfer=TRANSFER),
        prompt_tokens=TOKENS,
        cached_tokens=0,
        window_bytes=4,
        accepts=accepts,
    )
    data = encode_header(msgspec.structs.replace(HEADER, **changes), payload) + payload
    answer = receiver.on_chunk(data)
    credit = Credit(transfer=TRANSFER, total_bytes=len(data) - HEADER_BYTES + 4)
    assert answer == (credit if payload else None)
    assert receiver.rejected == (not sink.imports)
    return sink


def test_a_good_one_becomes_cells_of_the_caches_own_dtype() -> None:
    (cells,) = take_in(GOOD).imports
    assert cells == bytes(Int8Codec().cells(GOOD, "bfloat16", HEADS))


def test_it_is_refused_by_one_who_did_not_ask() -> None:
    assert not take_in(GOOD, accepts=(KvEncoding.EXACT,)).imports


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), float("-inf"), -0.5, 3.39e38], ids=str)
@pytest.mark.parametrize("head", range(HEADS))
def test_a_scale_that_is_none_is_refused(scale: float, head: int) -> None:
    bad = GOOD[: head * 4] + struct.pack("<f", scale) + GOOD[(head + 1) * 4 :]
    assert not take_in(bad).imports


@pytest.mark.parametrize("length", [0, 1, HEADS * 4 - 1, HEADS * 4, len(GOOD) - 1, len(GOOD) + 1, 2 * len(GOOD)])
def test_a_payload_of_another_length_is_refused(length: int) -> None:
    assert not take_in((GOOD * 2)[:length]).imports


@pytest.mark.parametrize(
    "changes",
    [
        {"region": KvRegion(0, 1, 0, TOKENS)},
        {"region": KvRegion(0, 2, 0, TOKENS - 1)},
        {"region": KvRegion(0, 2, 0, TOKENS + 1)},
        {"encoding": KvEncoding.EXACT},
        {"encoding": KvEncoding.EXACT, "dtype": "float32"},
    ],
    ids=str,
)
def test_a_header_that_does_not_go_with_the_payload_is_refused(changes: dict[str, object]) -> None:
    assert not take_in(GOOD, **changes).imports


@given(payload=st.binary(min_size=len(GOOD), max_size=len(GOOD)))
def test_any_bytes_are_taken_as_finite_numbers_or_refused(payload: bytes) -> None:
    for cells in take_in(payload).imports:
        high = cells[1::2]
        low = cells[::2]
        assert not any((h & 0x7F) == 0x7F and b & 0x80 for h, b in zip(high, low, strict=True))
