"""Writes pages into the journal: what is worth a record, at an interval; an end at once."""

from __future__ import annotations

import asyncio

from services.gateway.journal.journal import Journal
from services.gateway.kept.page import Page


class JournalWriter:
    """`note` never waits, so that no token does. At most one record per session and interval, but for its end."""

    def __init__(self, journal: Journal, interval_s: float) -> None:
        self._journal = journal
        self._interval_s = interval_s
        self._noted: dict[Page, None] = {}
        self._any = asyncio.Event()
        self._urgent = asyncio.Event()

    def note(self, page: Page) -> None:
        """There is something new on `page`."""
        self._noted[page] = None
        self._any.set()
        if page.urgent:
            self._urgent.set()

    def drop(self, page: Page) -> None:
        """Write no more of `page`."""
        self._noted.pop(page, None)

    async def run(self) -> None:
        """Task body."""
        while True:
            await self._any.wait()
            await self._pause()
            await self.flush()

    async def flush(self) -> None:
        """Write all that was noted."""
        noted, self._noted = self._noted, {}
        self._any.clear()
        self._urgent.clear()
        for page in noted:
            while (record := page.next()) is not None:
                await self._journal.append(page.session, record)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._urgent.wait()
        except TimeoutError:
            return
