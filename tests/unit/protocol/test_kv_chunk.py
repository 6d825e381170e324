"""The chunk decoder: what was sealed comes out, whatever was changed on the way is refused."""

from __future__ import annotations

import struct

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core import KvEncoding, KvRegion
from shared.errors import ProtocolError
from shared.protocol.kv_chunk import DTYPE_CODES, HEADER_BYTES, KvChunkHeader, decode_chunk, encode_header

U16 = st.integers(0, (1 << 16) - 1)
U32 = st.integers(0, (1 << 32) - 1)

headers = st.builds(
    KvChunkHeader,
    fingerprint=st.from_regex(r"\A[0-9a-f]{16}\Z"),
    session=st.from_regex(r"\A[0-9a-f]{32}\Z"),
    epoch=U32,
    transfer=U32,
    chunk=U32,
    dtype=st.sampled_from(sorted(DTYPE_CODES)),
    region=st.builds(KvRegion, U16, U16, U32, U32),
    encoding=st.sampled_from(KvEncoding),
)
HEADER = KvChunkHeader(
    fingerprint="0123456789abcdef",
    session="00ff" * 8,
    epoch=1,
    transfer=2,
    chunk=3,
    dtype="bfloat16",
    region=KvRegion(0, 4, 16, 32),
)
PAYLOAD = bytes(range(64))
CHUNK = encode_header(HEADER, PAYLOAD) + PAYLOAD


def sealed(body: bytes, payload: bytes = PAYLOAD) -> bytes:
    """A chunk whose header was rewritten by somebody who knows how to seal it."""
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + payload


@given(header=headers, payload=st.binary(max_size=300))
def test_a_chunk_survives_the_wire(header: KvChunkHeader, payload: bytes) -> None:
    encoded = encode_header(header, payload)
    assert len(encoded) == HEADER_BYTES == 80
    decoded, content = decode_chunk(encoded + payload)
    assert decoded == header
    assert bytes(content) == payload


def test_the_header_is_as_documented() -> None:
    magic, version, dtype, layout, encoding = struct.unpack_from("<4sBBBB", CHUNK)
    assert (magic, version, dtype, layout, encoding) == (b"BKVC", 1, DTYPE_CODES["bfloat16"], 1, 0)
    assert struct.unpack_from("<Q16sIII", CHUNK, 8) == (0x0123456789ABCDEF, bytes.fromhex("00ff" * 8), 1, 2, 3)
    assert struct.unpack_from("<HHII", CHUNK, 44) == (0, 4, 16, 32)
    assert struct.unpack_from("<I", CHUNK, 56) == (64,)
    assert struct.unpack_from("<QQ", CHUNK, 64) == (
        xxhash.xxh3_64_intdigest(PAYLOAD),
        xxhash.xxh3_64_intdigest(CHUNK[:72]),
    )


def test_every_bit_flip_is_refused() -> None:
    for position in range(len(CHUNK)):
        for bit in range(8):
            flipped = bytearray(CHUNK)
            flipped[position] ^= 1 << bit
            with pytest.raises(ProtocolError):
                decode_chunk(bytes(flipped))


@given(position=st.integers(0, len(CHUNK) - 1), value=st.integers(0, 255))
def test_every_changed_byte_is_refused(position: int, value: int) -> None:
    changed = bytearray(CHUNK)
    if changed[position] != value:
        changed[position] = value
        with pytest.raises(ProtocolError):
            decode_chunk(bytes(changed))


def test_every_truncation_is_refused() -> None:
    for length in range(len(CHUNK)):
        with pytest.raises(ProtocolError):
            decode_chunk(CHUNK[:length])


@given(st.binary(min_size=1, max_size=64))
def test_every_extension_is_refused(extension: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_chunk(CHUNK + extension)


@given(st.binary(max_size=256))
@settings(max_examples=300)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_chunk(data)


@given(st.binary(min_size=68, max_size=68), st.binary(max_size=64))
@settings(max_examples=300)
def test_a_random_header_with_a_right_seal_is_refused_or_read(fields: bytes, payload: bytes) -> None:
    try:
        header, content = decode_chunk(sealed(b"BKVC" + fields, payload))
    except ProtocolError:
        return
    assert encode_header(header, content)[:60] == (b"BKVC" + fields)[:60]


def test_another_payload_of_the_same_length_is_refused() -> None:
    with pytest.raises(ProtocolError, match="checksum"):
        decode_chunk(CHUNK[:HEADER_BYTES] + PAYLOAD[::-1])


@pytest.mark.parametrize(("offset", "what"), [(4, "version"), (5, "dtype"), (6, "layout"), (7, "encoding")])
def test_what_this_version_does_not_know_is_refused(offset: int, what: str) -> None:
    body = bytearray(CHUNK[:72])
    body[offset] = 9
    with pytest.raises(ProtocolError, match=what):
        decode_chunk(sealed(bytes(body)))


@pytest.mark.parametrize("change", [{"epoch": 1 << 32}, {"session": "xyz"}, {"fingerprint": "not hex"}], ids=str)
def test_a_header_that_cannot_be_written_is_an_error_of_the_sender(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, struct.error)):
        encode_header(msgspec.structs.replace(HEADER, **change), PAYLOAD)


@pytest.mark.parametrize("cuts", [(0, 0), (1, 2), (3, len(PAYLOAD))])
def test_a_payload_in_parts_has_the_header_of_the_whole(cuts: tuple[int, int]) -> None:
    first, second = cuts
    parts = (PAYLOAD[:first], memoryview(PAYLOAD)[first:second], PAYLOAD[second:])
    assert encode_header(HEADER, *parts) == encode_header(HEADER, PAYLOAD)
