"""Tests of connections run on asyncio's event loop and on uvloop, which production uses; all others on asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name.startswith(("test_data_plane", "test_bus_reconnect")):
        loops["uvloop"] = uvloop.new_event_loop
    return loops
