"""Request bodies: a JSON object, read as what a route expects, or an InvalidRequest; never more bytes than the limit.

Knows JSON and aiohttp's request, not what the object means. Every route that takes a body calls it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from aiohttp import hdrs, web

from services.gateway.openai.body_memory import BodyMemory, Share
from shared.errors import InvalidRequest, PayloadTooLarge

JSON_TYPES = ("application/json", "text/json")
LARGE_BODY_BYTES = 128 << 10

T = TypeVar("T")


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`, which must be UTF-8.

    Raises InvalidRequest for anything else: malformed, too deep, duplicated keys, NaN, lone surrogates, not an object.
    """
    try:
        text = raw.decode()
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise InvalidRequest("the body is not valid UTF-8") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return value


class BodyReader:
    """Reads the bodies of one application's requests.

    Large ones take long to parse and many times their size while they are: another thread does that, one at a time.
    """

    def __init__(self, memory: BodyMemory, *, timeout_s: float) -> None:
        """`memory` is for all bodies together; `timeout_s`: how long a client may take to send one."""
        self._memory = memory
        self._timeout_s = timeout_s
        self._large = asyncio.Lock()

    async def read(self, request: web.Request, parse: Callable[[dict[str, Any]], T]) -> T:
        """What `parse` makes of the JSON object in the body of `request`.

        Raises InvalidRequest, PayloadTooLarge and Overloaded, as early as it can, and what `parse` raises.
        """
        with self._memory.share() as share:
            raw = await self._read(request, share)
            if len(raw) < LARGE_BODY_BYTES:
                return parse(parse_object(raw))
            async with self._large:
                return await asyncio.to_thread(lambda: parse(parse_object(raw)))

    async def _read(self, request: web.Request, share: Share) -> bytes:
        if request.content_type not in JSON_TYPES:
            raise InvalidRequest(f"Content-Type must be application/json, not {request.content_type}")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise InvalidRequest("a Content-Encoding of the body is not supported")
        check_length(request)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _received(request, share)
        except TimeoutError as error:
            raise InvalidRequest(f"the body did not arrive within {self._timeout_s:g} s") from error
        except web.RequestPayloadError as error:
            raise InvalidRequest("the body breaks off, or is not framed as HTTP wants it") from error


async def _received(request: web.Request, share: Share) -> bytes:
    received = bytearray()
    async for part in request.content.iter_any():
        share.grow(len(part))
        received += part
        if len(received) > request.client_max_size:
            raise too_large(request)
    return bytes(received)


def check_length(request: web.BaseRequest) -> None:
    """Raises PayloadTooLarge when the announced length is over the limit: nothing of the body has been read."""
    if request.content_length is not None and request.content_length > request.client_max_size:
        raise too_large(request)


def too_large(request: web.BaseRequest) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {request.client_max_size} bytes")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidRequest(f"key {twice!r} is in the body twice", param=twice)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not valid JSON")
