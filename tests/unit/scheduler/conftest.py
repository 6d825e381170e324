"""What the tests of both waiting rooms share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.runtime.tasks import Tasks


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    """Owns those who wait."""
    async with Tasks("waiting") as owned:
        yield owned
