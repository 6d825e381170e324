"""Calls for many that one of them may spoil: who spoils it is found, and the others are served."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from shared.errors import EngineFailed

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


async def call_apart(
    call: Callable[[Sequence[T]], Awaitable[Sequence[R]]], items: Sequence[T]
) -> list[R | EngineFailed]:
    """What `call` makes of each of `items`; where it raises, what it makes of each half, and so on.

    An item for which it raises alone gets EngineFailed. `call` must leave all as it was when it raises.
    """
    try:
        return list(await call(items))
    except Exception as error:
        logger.exception("an engine call for %d sequences failed", len(items))
        if len(items) == 1:
            return [EngineFailed(f"the engine failed on this sequence: {type(error).__name__}: {error}")]
    half = len(items) // 2
    return [*await call_apart(call, items[:half]), *await call_apart(call, items[half:])]


class Streak:
    """Sessions in a row for which the engine failed, none in between for which it did not."""

    LIMIT = 3

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def served(self) -> None:
        self._failed.clear()

    def failed(self, session: str) -> None:
        """Raises EngineFailed when that was too many different ones: it is the engine, not they."""
        self._failed.add(session)
        if len(self._failed) >= self.LIMIT:
            raise EngineFailed(f"the engine failed on {self.LIMIT} sessions in a row")
