"""A scripted gateway to chat with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from scripted_gateway import ScriptedGateway, serve


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    made = ScriptedGateway()
    async with serve(made):
        yield made
