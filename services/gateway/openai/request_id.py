"""The request id: the client's `x-request-id` or a new one, echoed on every answer and used in logs.

Knows headers only. The app factory installs the middleware and the signal.
"""

from __future__ import annotations

import re
import uuid

from aiohttp import web

from shared.errors import InvalidRequest

HEADER = "x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_KEY = web.RequestKey("request_id", str)


def request_id_of(request: web.BaseRequest) -> str:
    """The id of `request`; the same whenever asked."""
    if _KEY not in request:
        given = request.headers.get(HEADER, "")
        request[_KEY] = given if _VALID.fullmatch(given) else uuid.uuid4().hex
    return request[_KEY]


def check_request_id(request: web.BaseRequest) -> None:
    """Raises InvalidRequest when the client sent an id that cannot be used."""
    given = request.headers.get(HEADER)
    if given is not None and not _VALID.fullmatch(given):
        raise InvalidRequest(f"{HEADER} must be 1 to 128 of A-Z a-z 0-9 . _ : -", param=HEADER)


async def echo_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """Signal: put the id on every answer, whole or streamed."""
    response.headers[HEADER] = request_id_of(request)
