"""How far the loading of a model is, for those who wait for it. Loaders call it; what is quick says nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


def nobody(_what: str, _done: int, _total: int) -> None:
    """An `OnProgress`."""


class LoadProgress:
    """An `OnProgress` that logs once in `interval_s` at most, and the first time not before that."""

    def __init__(self, model: str, interval_s: float = 3.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._interval_s = interval_s
        self._clock = clock
        self._began_s = self._said_s = clock()

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = self._clock()
        if now_s - self._said_s < self._interval_s:
            return
        self._said_s = now_s
        logger.info("loading %s: %s, %d of %d, %.0f s so far", self._model, what, done, total, now_s - self._began_s)
