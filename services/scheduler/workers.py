"""How the placer speaks with workers, and the same over NATS."""

from __future__ import annotations

from typing import Protocol

from shared.bus.connection import Bus
from shared.bus.outbox import Outbox
from shared.core import Role
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel, Claim, ClaimGranted
from shared.protocol.to_prefill import RunAccepted, RunPrefill


class Workers(Protocol):
    """Raises what the worker answered; Unavailable or DeadlineExceeded when it does not answer."""

    async def claim(self, worker: str, claim: Claim) -> ClaimGranted: ...

    async def run(self, worker: str, run: RunPrefill) -> RunAccepted: ...

    def cancel(self, role: Role, worker: str, cancel: Cancel) -> None: ...


class BusWorkers:
    """Workers over NATS. `timeout_s` is how long one may take to answer.

    What is asked comes after all cancels: one of the same session and epoch would end what has just been granted.
    """

    def __init__(self, bus: Bus, outbox: Outbox, timeout_s: float) -> None:
        self._bus = bus
        self._outbox = outbox
        self._timeout_s = timeout_s

    async def claim(self, worker: str, claim: Claim) -> ClaimGranted:
        await self._outbox.drain()
        return await self._bus.request(subjects.claim(worker), claim, ClaimGranted, self._timeout_s)

    async def run(self, worker: str, run: RunPrefill) -> RunAccepted:
        await self._outbox.drain()
        return await self._bus.request(subjects.run(worker), run, RunAccepted, self._timeout_s)

    def cancel(self, role: Role, worker: str, cancel: Cancel) -> None:
        self._outbox.post(subjects.cancel(role, worker), cancel)
