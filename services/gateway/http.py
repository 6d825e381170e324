"""The gateway's HTTP door: the routes, what runs around each of them, and how connections are served.

Knows which object answers which route, not how. The gateway service builds the application, may add routes of other
doors to it, and serves it with `runner`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from services.gateway.generation import Generator
from services.gateway.openai.answers import Answerer, AnswerSettings
from services.gateway.openai.body import BodyReader
from services.gateway.openai.body_memory import BodyMemory
from services.gateway.openai.chat import ChatCompletions
from services.gateway.openai.completions import Completions
from services.gateway.openai.errors import errors_middleware, expect_continue
from services.gateway.openai.health import Fleet, Health
from services.gateway.openai.logprobs import TokenTexts
from services.gateway.openai.models import Models
from services.gateway.openai.request_id import echo_request_id
from services.gateway.openai.sessions import SessionRoutes
from services.gateway.openai.tokenize import Decoder, Tokenize
from services.gateway.requests import RequestBuilder

UNREAD_BODY_S = 2.0
SHUTDOWN_S = 1.0


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`body_limit_bytes`: larger request bodies are refused unread. `bodies_limit_bytes`: all that arrive at once.

    `body_timeout_s`: how long one may take to arrive.

    The others: see `AnswerSettings`.
    """

    version: str
    system_fingerprint: str
    body_limit_bytes: int = 8 << 20
    bodies_limit_bytes: int = 64 << 20
    body_timeout_s: float = 60.0
    keep_alive_s: float = 10.0
    write_timeout_s: float = 60.0


class Detokenizer(Decoder, TokenTexts, Protocol):
    """Token ids to text, together and one by one; a `shared.text` tokenizer is one."""


def make_app(
    generator: Generator,
    builder: RequestBuilder,
    detokenizer: Detokenizer,
    *,
    fleet: Fleet,
    registry: CollectorRegistry,
    settings: HttpSettings,
) -> web.Application:
    """The application with all routes of this door. Others may be added until it is served."""
    answers = AnswerSettings(
        system_fingerprint=settings.system_fingerprint,
        keep_alive_s=settings.keep_alive_s,
        write_timeout_s=settings.write_timeout_s,
    )
    answerer = Answerer(generator, builder.model.name, answers)
    bodies = BodyReader(BodyMemory(settings.bodies_limit_bytes), timeout_s=settings.body_timeout_s)
    completions = Completions(bodies, builder, answerer, detokenizer)
    chat = ChatCompletions(bodies, builder, answerer, detokenizer)
    sessions = SessionRoutes(generator, answerer, detokenizer)
    models = Models(builder)
    tokenize = Tokenize(bodies, builder, detokenizer)
    health = Health(fleet, registry, model=builder.model.name, version=settings.version)

    app = web.Application(middlewares=[errors_middleware], client_max_size=settings.body_limit_bytes)
    app.on_response_prepare.append(echo_request_id)
    app.add_routes(
        [
            web.post("/v1/completions", completions.post, expect_handler=expect_continue),
            web.post("/v1/chat/completions", chat.post, expect_handler=expect_continue),
            web.get("/v1/sessions/{id}/stream", sessions.stream),
            web.delete("/v1/sessions/{id}", sessions.end),
            web.post("/tokenize", tokenize.tokenize, expect_handler=expect_continue),
            web.post("/detokenize", tokenize.detokenize, expect_handler=expect_continue),
            web.get("/v1/models", models.list),
            web.get("/v1/models/{id:.+}", models.get),
            web.get("/health", health.health),
            web.get("/live", health.live),
            web.get("/version", health.version),
            web.get("/metrics", health.metrics),
        ]
    )
    return app


def runner(app: web.Application) -> web.AppRunner:
    """Serves `app`: a client that goes away cancels its handler, whatever that waits for."""
    return web.AppRunner(
        app,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        lingering_time=UNREAD_BODY_S,
        shutdown_timeout=SHUTDOWN_S,
    )
