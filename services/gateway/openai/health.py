"""GET /health, /live, /version and /metrics: for load balancers, supervisors and Prometheus.

Knows what a `Fleet` says of itself; the gateway's view of the workers' beats implements it.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class FleetStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many workers of the served model live, and why requests cannot be served now; no reasons: they can."""

    prefill_workers: int
    decode_workers: int
    reasons: tuple[str, ...] = ()


class Fleet(Protocol):
    """The workers, as this gateway sees them."""

    def status(self) -> FleetStatus:
        """Now; without waiting."""


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    model: str
    prefill_workers: int
    decode_workers: int
    reasons: tuple[str, ...]


class Health:
    """The four routes. `/live` says that the process answers, `/health` that it can serve requests."""

    def __init__(self, fleet: Fleet, registry: CollectorRegistry, *, model: str, version: str) -> None:
        self._fleet = fleet
        self._registry = registry
        self._model = model
        self._version = version

    async def health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        status = self._fleet.status()
        body = HealthBody(
            status="unavailable" if status.reasons else "ok",
            model=self._model,
            prefill_workers=status.prefill_workers,
            decode_workers=status.decode_workers,
            reasons=status.reasons,
        )
        return _json(body, status=503 if status.reasons else 200)

    async def live(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return _json({"status": "live"})

    async def version(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return _json({"version": self._version})

    async def metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(self._registry), headers={hdrs.CONTENT_TYPE: content_type})


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)
