"""A connection on which nothing arrives is dead, whatever TCP thinks. Pings tell too, but some ten seconds later."""

from __future__ import annotations

import asyncio

from shared.bus.connection import Bus
from shared.bus.liveness import MISSED_BEATS, Liveness

DEAF_BEATS = 2 * MISSED_BEATS


async def redial_when_deaf(bus: Bus, liveness: Liveness, beat_interval_s: float) -> None:
    """Task body, for a process that beats at `beat_interval_s` and listens to all beats, its own among them."""
    while True:
        await asyncio.sleep(beat_interval_s)
        if bus.connected and liveness.deaf_for_s() > DEAF_BEATS * beat_interval_s:
            bus.redial("no beat is heard, not even our own")
