"""The watch on the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.runtime.loop_lag import LOOP_LAG, watch_loop_lag
from shared.runtime.tasks import Tasks


def observed() -> float:
    samples = next(iter(LOOP_LAG.collect())).samples
    return float(next(sample.value for sample in samples if sample.name.endswith("_count")))


async def test_a_blocked_loop_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    before = observed()
    async with Tasks("test") as tasks:
        tasks.start(watch_loop_lag(interval_s=0.001, warn_s=0.01), name="watch")
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251
        while observed() == before:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert "the event loop was blocked" in caplog.text
