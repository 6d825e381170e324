"""Control messages as MessagePack maps, readable by any MessagePack library.

Unknown fields are ignored, so a newer peer may add some; a change an older peer could misread raises `VERSION`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import ProtocolError

VERSION = 1
ID_BYTES = 4
NAME_PATTERN = r"[A-Za-z0-9_-]{1,64}"

# What becomes part of a subject or of a KV chunk's header is checked when it is read: a name with a space or a
# wildcard, or a number its header field cannot hold, must not get as far as the one who would use it.
SessionId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Name = Annotated[str, Meta(pattern=rf"\A{NAME_PATTERN}\Z")]
U32 = Annotated[int, Meta(ge=0, lt=1 << 32)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
CacheSalt = Annotated[str, Meta(max_length=256)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every control message. `v` is the protocol version."""

    v: int = VERSION


class _Envelope(msgspec.Struct):
    v: int


M = TypeVar("M", bound=Message)

_ENCODER = msgspec.msgpack.Encoder()
_ENVELOPE = msgspec.msgpack.Decoder(_Envelope)
_decoders: dict[object, msgspec.msgpack.Decoder[object]] = {}


def encode(message: Message) -> bytes:
    """`message` as a MessagePack map."""
    return _ENCODER.encode(message)


def decode(kind: type[M], data: bytes | memoryview) -> M:
    """The message in `data`; `kind` may be a tagged union of messages.

    Raises ProtocolError when the bytes are not MessagePack, not this version or not of this shape.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        version = _ENVELOPE.decode(data).v
        if version != VERSION:
            raise ProtocolError(f"protocol version {version} is not {VERSION}", param="v")
        message: M = decoder.decode(data)  # type: ignore[assignment]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a valid message: {error}") from error
    return message


def pack_ids(ids: Sequence[int]) -> bytes:
    """Token ids as little-endian int32 bytes."""
    packed = array("i", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_ids(data: bytes) -> list[int]:
    """Inverse of `pack_ids`. Raises ProtocolError when `data` is not whole int32s."""
    if len(data) % ID_BYTES:
        raise ProtocolError(f"token ids are int32: {len(data)} bytes do not divide by 4")
    packed = array("i")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tolist()
