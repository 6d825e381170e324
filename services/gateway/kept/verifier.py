"""Looks into the journal after a break: whose the sessions are, and whether they are still in it."""

from __future__ import annotations

import asyncio
import logging

from services.gateway.kept.sessions import KeptSessions
from shared.errors import BatonError
from shared.runtime.tasks import Tasks

logger = logging.getLogger(__name__)

ATTEMPTS = 20
PAUSE_S = 1.0


class Verifier:
    """`wanted` never waits; what it starts ends by itself, after `ATTEMPTS` where the journal does not answer."""

    def __init__(self, kept: KeptSessions, tasks: Tasks) -> None:
        self._kept = kept
        self._tasks = tasks
        self._wanted = False
        self._running = False

    def wanted(self) -> None:
        """This process was cut off, or stood still: others may have gone on, and the journal may be empty."""
        self._wanted = True
        if not self._running:
            self._running = True
            self._tasks.start(self._run(), name="verify")

    async def _run(self) -> None:
        failures = 0
        try:
            while self._wanted and failures < ATTEMPTS:
                self._wanted = False
                try:
                    await self._kept.verify()
                except BatonError as error:
                    logger.warning("the journal of resumable sessions cannot be verified: %s", error)
                    failures += 1
                    self._wanted = True
                    await asyncio.sleep(PAUSE_S)
        finally:
            self._running = False
