"""What a NATS server says of itself when a client connects, and again when that changes."""

from __future__ import annotations

import msgspec

from shared.errors import ProtocolError


class ServerInfo(msgspec.Struct, frozen=True):
    """The fields of INFO that matter here. `connect_urls` are `host:port` of the cluster's servers."""

    max_payload: int = 1 << 20
    nonce: str = ""
    tls_required: bool = False
    tls_available: bool = False
    connect_urls: tuple[str, ...] | None = None


_DECODER = msgspec.json.Decoder(ServerInfo)


def read_info(data: bytes) -> ServerInfo:
    """Raises ProtocolError."""
    try:
        info = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"the NATS server's INFO cannot be read: {error}") from error
    if info.max_payload < 1:
        raise ProtocolError(f"the NATS server's limit on a message is {info.max_payload} bytes")
    return info
