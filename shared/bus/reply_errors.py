"""How an error travels as an answer: its code as a header, all of it as the body."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.errors import BatonError, ErrorInfo, ProtocolError, error_from

ERROR_HEADER = "Baton-Error"


def error_headers(error: BatonError) -> dict[str, str]:
    return {ERROR_HEADER: error.code}


def raise_reply_error(headers: Mapping[str, str] | None, body: bytes) -> None:
    """Raise the error that an answer carries, if it carries one."""
    if not headers or ERROR_HEADER not in headers:
        return
    try:
        info = msgspec.msgpack.decode(body, type=ErrorInfo)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"an error answer that cannot be read: {headers[ERROR_HEADER]}") from error
    raise error_from(info)
