"""Who is alive, by the beats heard: a table on the listener's own monotonic clock. No I/O.

The scheduler places by it, the gateway answers /health from it, workers reap sessions of silent gateways with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState

MISSED_BEATS = 3


class Liveness:
    """The last beat of every process, forgotten after `MISSED_BEATS` of its own intervals or when it says so.

    The farewell of an earlier start of the same process does not end its present one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[tuple[Role, str], tuple[float, Beat]] = {}

    def hear(self, beat: Beat) -> None:
        key = (beat.role, beat.worker)
        if beat.state is not WorkerState.STOPPED:
            self._beats[key] = (self._clock(), beat)
        elif key in self._beats and self._beats[key][1].boot == beat.boot:
            del self._beats[key]
        self._forget_silent()

    def alive(self, role: Role) -> Iterator[Beat]:
        """Live processes of `role`, in whatever state."""
        self._forget_silent()
        return (beat for (beat_role, _), (_, beat) in self._beats.items() if beat_role is role)

    def ready(self, role: Role, model: str) -> list[Beat]:
        """Live processes of `role` that serve `model` and take new work."""
        return [beat for beat in self.alive(role) if beat.state is WorkerState.READY and beat.model == model]

    def is_alive(self, role: Role, worker: str) -> bool:
        known = self._beats.get((role, worker))
        return known is not None and _speaks(*known, self._clock())

    def _forget_silent(self) -> None:
        now_s = self._clock()
        self._beats = {key: known for key, known in self._beats.items() if _speaks(*known, now_s)}


def _speaks(heard_s: float, beat: Beat, now_s: float) -> bool:
    return now_s - heard_s <= MISSED_BEATS * beat.interval_ms / 1000
