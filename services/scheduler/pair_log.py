"""Tells, once per start of two workers, that they do not pair and why. `service` feeds it every beat."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from shared.protocol.pairing import differ, differences, meet
from shared.protocol.to_all import Beat

logger = logging.getLogger(__name__)

_REMEMBERED = 4096

_Start = tuple[str, str, str]


class PairLog:
    """Remembers what it has told, up to a bound."""

    def __init__(self) -> None:
        self._seen: set[_Start] = set()

    def hear(self, beat: Beat, others: Iterable[Beat]) -> None:
        """`others` are the live workers. The first beat of a start is compared with them; later ones cost nothing."""
        start = (beat.role.value, beat.worker, beat.boot)
        if start in self._seen:
            return
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen.add(start)
        for other in others:
            parts = differences(beat, other) if meet(beat, other) else ()
            if parts:
                logger.warning(
                    "%s %s does not pair with %s %s of model %s: %s",
                    beat.role.value,
                    beat.worker,
                    other.role.value,
                    other.worker,
                    beat.model,
                    differ(parts),
                )
