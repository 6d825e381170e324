"""GET /v1/models and /v1/models/{id}: the one model this gateway serves.

Knows the served model, nothing of workers.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from services.gateway.generation import ServedModel
from services.gateway.requests import RequestBuilder


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    """What OpenAI clients read of a model, and its context length under the name vLLM gives it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "baton"
    max_model_len: int


class ModelList(msgspec.Struct, frozen=True):
    data: tuple[ModelObject, ...]
    object: str = "list"


class Models:
    """The two routes."""

    def __init__(self, builder: RequestBuilder) -> None:
        self._builder = builder

    async def list(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return _json(ModelList((_object(self._builder.model),)))

    async def get(self, request: web.Request) -> web.Response:
        self._builder.check_model(request.match_info["id"])
        return _json(_object(self._builder.model))


def _object(model: ServedModel) -> ModelObject:
    return ModelObject(id=model.name, created=model.created_unix_s, max_model_len=model.context_tokens)


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
