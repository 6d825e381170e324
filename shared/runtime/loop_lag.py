"""How late the event loop runs what is due: the sign of work that blocks it."""

from __future__ import annotations

import asyncio
import logging

from shared.runtime.metrics import LOOP_LAG_BUCKETS_S, histogram

logger = logging.getLogger(__name__)

LOOP_LAG = histogram("loop_lag_seconds", "How late the event loop ran a timer", LOOP_LAG_BUCKETS_S)


async def watch_loop_lag(interval_s: float = 0.25, warn_s: float = 0.25) -> None:
    """Measure for ever; log a lag above `warn_s`."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        lag_s = max(0.0, loop.time() - due)
        LOOP_LAG.observe(lag_s)
        if lag_s > warn_s:
            logger.warning("the event loop was blocked for %.0f ms", lag_s * 1000)
