"""The regular look at what should not be held any more: sessions past their deadline, or of a silent gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from shared.bus.liveness import Liveness
from shared.core import Role

INTERVAL_S = 0.25
GRACE_S = 5.0


class Reaper:
    """Calls `reap(silent)` at its interval; `silent(gateway)` tells whether that gateway is taken for dead.

    A gateway is dead when no beat of it was heard for `GRACE_S` beyond the liveness of its last one: long enough for
    a gateway whose first beat is still on the way, short enough that nobody's memory is held for a dead client.
    """

    def __init__(
        self,
        gateways: Liveness,
        reap: Callable[[Callable[[str], bool]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateways = gateways
        self._reap = reap
        self._clock = clock
        self._silent_since: dict[str, float] = {}

    async def run(self) -> None:
        """Task body."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.look()

    def look(self) -> None:
        asked: set[str] = set()
        self._reap(lambda gateway: self._is_silent(gateway, asked))
        self._silent_since = {gateway: since for gateway, since in self._silent_since.items() if gateway in asked}

    def _is_silent(self, gateway: str, asked: set[str]) -> bool:
        asked.add(gateway)
        if self._gateways.is_alive(Role.GATEWAY, gateway):
            self._silent_since.pop(gateway, None)
            return False
        return self._clock() - self._silent_since.setdefault(gateway, self._clock()) > GRACE_S
