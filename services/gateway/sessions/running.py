"""A generation that runs, as the doors see it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.gateway.generation import Delta


class RunningGeneration:
    """See `services.gateway.generation.Generation`. `cancelled` says that its client wants no more of it."""

    def __init__(self, session_id: str, deltas: AsyncIterator[Delta]) -> None:
        self.id = session_id
        self.cancelled = False
        self._deltas = deltas

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self._deltas

    def cancel(self) -> None:
        self.cancelled = True
