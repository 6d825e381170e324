"""The gateway's HTTP door on a loopback port, before a scripted generator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from http_door import Door, FixedFleet
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry
from scripted_generator import MODEL, ByteTokenizer, PlainTemplate, ScriptedGenerator

from services.gateway.http import HttpSettings, make_app, runner
from services.gateway.requests import RequestBuilder


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def fleet() -> FixedFleet:
    return FixedFleet()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def builder() -> RequestBuilder:
    return RequestBuilder(MODEL, ByteTokenizer(), PlainTemplate())


@pytest.fixture
def http_settings() -> HttpSettings:
    return HttpSettings(version="9.9", system_fingerprint="fp_tiny", body_limit_bytes=1 << 18)


@pytest.fixture
def app(
    generator: ScriptedGenerator,
    builder: RequestBuilder,
    fleet: FixedFleet,
    registry: CollectorRegistry,
    http_settings: HttpSettings,
) -> web.Application:
    return make_app(generator, builder, ByteTokenizer(), fleet=fleet, registry=registry, settings=http_settings)


@pytest.fixture
async def door(app: web.Application) -> AsyncIterator[Door]:
    running = runner(app)
    await running.setup()
    await web.TCPSite(running, "127.0.0.1", 0).start()
    host, port = running.addresses[0][:2]
    yield Door(f"http://{host}:{port}", host, port)
    await running.cleanup()


@pytest.fixture
async def http(door: Door) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(door.base_url) as session:
        yield session


@pytest.fixture
async def client(door: Door) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{door.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client
