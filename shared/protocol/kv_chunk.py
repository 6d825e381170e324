"""A KV chunk: a fixed binary header and the cells of one `KvRegion`. Nothing here is ever unpickled.

Header, little-endian, 80 bytes: magic, version, dtype, layout, encoding, fingerprint, session, epoch, transfer, chunk,
layers, tokens, payload length, payload checksum, header checksum (XXH3-64 over the 72 bytes before it).

`dtype` is that of the sender's cache. The payload is its cells as they are (encoding 0), or scales and int8 cells
(encoding 1, see `shared.kv.int8`). Before there was a second encoding that byte had to be 0: a reader of that time
refuses what it cannot read, so the version did not change.
"""

from __future__ import annotations

import struct

import msgspec
import xxhash

from shared.core import KvEncoding, KvRegion
from shared.errors import ProtocolError

MAGIC = b"BKVC"
VERSION = 1
LAYOUT_LAYER_KV_HEAD_TOKEN_DIM = 1
DTYPE_CODES = {"float32": 1, "float16": 2, "bfloat16": 3}
ENCODING_CODES = {KvEncoding.EXACT: 0, KvEncoding.INT8: 1}

_BODY = struct.Struct("<4sBBBBQ16sIIIHHIIIIQ")
_CHECKSUM = struct.Struct("<Q")
HEADER_BYTES = _BODY.size + _CHECKSUM.size
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}
_ENCODINGS = {code: encoding for encoding, code in ENCODING_CODES.items()}


class KvChunkHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk says of itself. `fingerprint` and `session` are 16 and 32 lower-case hex digits."""

    fingerprint: str
    session: str
    epoch: int
    transfer: int
    chunk: int
    dtype: str
    region: KvRegion
    encoding: KvEncoding = KvEncoding.EXACT


def encode_header(header: KvChunkHeader, *payload: memoryview | bytes) -> bytes:
    """The header bytes that go before `payload`: parts of bytes, one after the other."""
    checksum = xxhash.xxh3_64()
    for part in payload:
        checksum.update(part)
    region = header.region
    body = _BODY.pack(
        MAGIC,
        VERSION,
        DTYPE_CODES[header.dtype],
        LAYOUT_LAYER_KV_HEAD_TOKEN_DIM,
        ENCODING_CODES[header.encoding],
        int(header.fingerprint, 16),
        bytes.fromhex(header.session),
        header.epoch,
        header.transfer,
        header.chunk,
        region.layer_start,
        region.layer_stop,
        region.token_start,
        region.token_stop,
        sum(map(len, payload)),
        0,
        checksum.intdigest(),
    )
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def decode_chunk(data: bytes | memoryview) -> tuple[KvChunkHeader, memoryview]:
    """Header and payload of a chunk whose lengths and checksums hold.

    Raises ProtocolError for anything else: too short, other magic or version, unknown dtype, layout or encoding, a
    corrupt header or payload, a payload of another length. Whether the chunk belongs here is for the receiver to judge.
    """
    header, payload_bytes, payload_checksum = _decode_header(data)
    payload = memoryview(data)[HEADER_BYTES:]
    if len(payload) != payload_bytes:
        raise ProtocolError(f"KV chunk carries {len(payload)} payload bytes, its header says {payload_bytes}")
    if xxhash.xxh3_64_intdigest(payload) != payload_checksum:
        raise ProtocolError("KV chunk payload does not match its checksum")
    return header, payload


def _decode_header(data: bytes | memoryview) -> tuple[KvChunkHeader, int, int]:
    if len(data) < HEADER_BYTES:
        raise ProtocolError(f"KV chunk of {len(data)} bytes is shorter than its header")
    body = memoryview(data)[: _BODY.size]
    (checksum,) = _CHECKSUM.unpack_from(data, _BODY.size)
    fields = _BODY.unpack(body)
    magic, version, dtype, layout, encoding = fields[:5]
    if magic != MAGIC or version != VERSION:
        raise ProtocolError("not a KV chunk of this version")
    if xxhash.xxh3_64_intdigest(body) != checksum:
        raise ProtocolError("KV chunk header does not match its checksum")
    if dtype not in _DTYPES or layout != LAYOUT_LAYER_KV_HEAD_TOKEN_DIM or encoding not in _ENCODINGS:
        raise ProtocolError(f"KV chunk of unknown dtype {dtype}, layout {layout} or encoding {encoding}")
    header = KvChunkHeader(
        fingerprint=f"{fields[5]:016x}",
        session=fields[6].hex(),
        epoch=fields[7],
        transfer=fields[8],
        chunk=fields[9],
        dtype=_DTYPES[dtype],
        region=KvRegion(*fields[10:14]),
        encoding=_ENCODINGS[encoding],
    )
    return header, fields[14], fields[16]
