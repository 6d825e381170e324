"""Errors as OpenAI error objects: the outermost middleware, and the object itself for streams that have begun.

Knows the error table and HTTP, not what failed. Every route runs under it.
"""

from __future__ import annotations

import logging
import math

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler
from msgspec import UNSET, UnsetType

from services.gateway.openai.body import check_length, too_large
from services.gateway.openai.request_id import check_request_id, request_id_of
from shared.errors import BatonError, Cancelled, Draining, InvalidRequest, MethodNotAllowed, NotFound, PayloadTooLarge

logger = logging.getLogger(__name__)


class ErrorObject(msgspec.Struct, frozen=True):
    """What OpenAI clients read of an error, and when to try again: a stream has no headers left to say so."""

    message: str
    type: str
    param: str | None
    code: str
    retry_after_ms: int | UnsetType = UNSET


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorObject


def error_body(error: BatonError) -> bytes:
    """`error` as the JSON that clients of the OpenAI API expect."""
    param = None if error.param is None else _encodable(error.param)
    retry_after_ms = UNSET if error.retry_after_ms is None else error.retry_after_ms
    said = ErrorObject(_encodable(error.message), error.openai_type, param, error.code, retry_after_ms)
    return msgspec.json.encode(ErrorBody(said))


def error_response(error: BatonError) -> web.Response:
    """The whole HTTP answer to a request that failed before its answer began."""
    response = web.Response(status=error.http_status, body=error_body(error), content_type="application/json")
    if error.retry_after_ms is not None:
        response.headers[hdrs.RETRY_AFTER] = str(math.ceil(error.retry_after_ms / 1000))
    if isinstance(error, PayloadTooLarge | Draining):
        # A gateway that stops closes its connections: the next request must not be sent on one.
        response.force_close()
    return response


def as_baton_error(error: Exception, request: web.BaseRequest) -> BatonError:
    """`error` itself, or an internal error whose cause is in the log and not in the answer."""
    if isinstance(error, BatonError):
        return error
    logger.error("request %s failed", request_id_of(request), exc_info=error)
    return BatonError("internal error")


def gone(request: web.BaseRequest) -> bool:
    """Whether nobody is there any more to read an answer."""
    return request.transport is None or request.transport.is_closing()


@web.middleware
async def errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers whatever a route raises, what aiohttp itself raises included."""
    try:
        check_request_id(request)
        return await handler(request)
    except web.HTTPException as error:
        return _from_aiohttp(error, request)
    except Exception as error:  # noqa: BLE001 - the connection's boundary
        if gone(request):
            return error_response(Cancelled("the client is gone"))
        return error_response(as_baton_error(error, request))


async def expect_continue(request: web.Request) -> web.StreamResponse | None:
    """Asks a client that sent `Expect: 100-continue` for its body, unless its length is over the limit."""
    try:
        check_length(request)
    except PayloadTooLarge as error:
        return error_response(error)
    if request.version == HttpVersion11 and request.headers[hdrs.EXPECT].lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


def _from_aiohttp(error: web.HTTPException, request: web.Request) -> web.StreamResponse:
    match error:
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            response = error_response(MethodNotAllowed(f"{request.path} takes {allowed}, not {request.method}"))
            response.headers[hdrs.ALLOW] = allowed
            return response
        case web.HTTPNotFound():
            return error_response(NotFound(f"there is no {request.path}"))
        case web.HTTPRequestEntityTooLarge():
            return error_response(too_large(request))
        case web.HTTPClientError():
            response = error_response(InvalidRequest(error.text or error.reason))
            response.set_status(error.status)
            return response
        case _:
            raise error


def _encodable(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 JSON can carry."""
    return text.encode(errors="replace").decode()
