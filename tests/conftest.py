"""What tests of every kind share: a real NATS server and the default model."""

from __future__ import annotations

import asyncio
import collections
import functools
import inspect
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from services.local import nats_server
from shared.errors import BatonError
from shared.models.catalogue import DEFAULT_MODEL
from shared.models.store import resolve
from shared.runtime.process import die_with_parent
from shared.runtime.settings import cache_folder, process_environment

# How long an example takes says how busy the machine is.
settings.register_profile("baton", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("baton")

BODY_SHARE = 0.8


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """End a test that hangs a little before its time, in its event loop: the report then shows what it waited for."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            mark = item.get_closest_marker("timeout")
            named = {} if mark is None else dict(zip(("timeout",), mark.args, strict=False)) | mark.kwargs
            limit_s = float(named.get("timeout", config.getini("timeout")))
            if limit_s and not config.getoption("usepdb"):
                item.obj = _ended_after(item.obj, limit_s * BODY_SHARE)


def _ended_after(body: Callable[..., Awaitable[None]], limit_s: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(body)
    async def bounded(**fixtures: object) -> None:
        async with asyncio.timeout(limit_s):
            await body(**fixtures)

    return bounded


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a nats-server process that lasts for the session."""
    command = nats_server.command(tmp_path_factory.mktemp("nats"))
    tied = die_with_parent()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=tied) as server:  # noqa: PLW1509
        assert server.stderr is not None
        start_up = nats_server.StartUp()
        for line in server.stderr:
            start_up.read(line)
            if start_up.ready:
                break
        assert start_up.ready, "nats-server did not start"
        reader = threading.Thread(target=collections.deque, args=(server.stderr, 0), daemon=True)
        reader.start()
        yield start_up.url
        server.terminate()
        reader.join()


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The folder of the default model. Tests that use it carry the mark `model`."""
    try:
        return resolve(DEFAULT_MODEL, cache_folder(process_environment().get("BATON_CACHE_DIR", ""))).path
    except BatonError as error:
        pytest.skip(f"the default model is not here: {error}")
