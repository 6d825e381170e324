"""What a region's cells are on the wire, and back, whatever the dtypes of the two caches.

The sender sends cells of its own dtype, or int8; the receiver makes cells of its dtype of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.core import KvEncoding, KvLayout, KvRegion
from shared.kv.cells import Bytes, convert
from shared.kv.int8 import LEAST_HEAD_DIM, Int8Codec, payload_bytes
from shared.protocol.kv_chunk import KvChunkHeader

INT8 = Int8Codec()

_KNOWN = {encoding.value: encoding for encoding in KvEncoding}


def usable(encoding: KvEncoding, layout: KvLayout) -> KvEncoding:
    """`encoding`, or `EXACT` where it would save nothing."""
    return encoding if layout.head_dim >= LEAST_HEAD_DIM else KvEncoding.EXACT


def offered(most: KvEncoding, layout: KvLayout) -> tuple[KvEncoding, ...]:
    """`most`, where it saves anything, and exact in any case: what a worker can say of itself."""
    return tuple(dict.fromkeys((usable(most, layout), KvEncoding.EXACT)))


def wire_bytes(layout: KvLayout, region: KvRegion, encoding: KvEncoding) -> int:
    """How long the payload of `region` is, from a cache of `layout`."""
    if encoding is KvEncoding.EXACT:
        return region.size_bytes(layout)
    heads = _heads(layout, region)
    return payload_bytes(heads, heads * region.tokens * layout.head_dim)


def encoded(
    parts: Sequence[memoryview], layout: KvLayout, region: KvRegion, encoding: KvEncoding, codec: Int8Codec = INT8
) -> Sequence[memoryview]:
    """The payload of a region whose cells are `parts`, one after the other. Raises HandoffFailed."""
    if encoding is KvEncoding.EXACT:
        return parts
    cells = parts[0] if len(parts) == 1 else b"".join(parts)
    return (codec.quantised(cells, layout.dtype, _heads(layout, region)),)


def decoded(payload: Bytes, header: KvChunkHeader, layout: KvLayout, codec: Int8Codec = INT8) -> memoryview:
    """The cells of a chunk for a cache of `layout`, from a payload of checked length. Raises ProtocolError."""
    if header.encoding is KvEncoding.EXACT:
        return convert(payload, header.dtype, layout.dtype)
    return codec.cells(payload, layout.dtype, _heads(layout, header.region))


def in_dtype(layout: KvLayout, dtype: str) -> KvLayout:
    """The same cache with cells of another dtype."""
    return msgspec.structs.replace(layout, dtype=dtype)


def travelled(encoding: KvEncoding, source: str, target: str) -> str:
    """`exact`, `int8 (lossy)`, `bfloat16 to float32, exact`, `float32 to bfloat16 (lossy)`."""
    if encoding is not KvEncoding.EXACT or source == target:
        return encoding.label
    return f"{source} to {target}" + (", exact" if target == "float32" else " (lossy)")


def named(name: str) -> KvEncoding:
    """The encoding of that name; `EXACT` for one that this process does not know."""
    return _KNOWN.get(name, KvEncoding.EXACT)


def _heads(layout: KvLayout, region: KvRegion) -> int:
    return region.layers * 2 * layout.kv_heads
