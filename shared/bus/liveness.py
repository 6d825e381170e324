"""Who is alive, by the beats heard: a table on the listener's own monotonic clock. No I/O.

The scheduler places by it, the gateway answers /health from it, workers reap sessions of silent gateways with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from shared.core import Role
from shared.protocol.to_all import Beat, WorkerState

MISSED_BEATS = 3
RETURN_S = 2.0


class Liveness:
    """The last beat of every process, forgotten after `MISSED_BEATS` of its own intervals or when it says so.

    The farewell of an earlier start of the same process does not end its present one. While the listener itself is cut
    off, nobody is taken for dead; then all have `RETURN_S` more to be heard again.

    A cut that breaks no connection looks like the silence of all. So a listener that beats every `own_interval_s`, and
    hears itself too (`contact`), judges the others as of when it last heard anything.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, own_interval_s: float | None = None) -> None:
        self._clock = clock
        self._deaf_limit_s = math.inf if own_interval_s is None else MISSED_BEATS * own_interval_s
        self._contact_s = clock()
        self._beats: dict[tuple[Role, str], tuple[float, Beat]] = {}
        self._suspended = False
        self._resumed_s: float | None = None

    @property
    def suspended(self) -> bool:
        """Whether the listener is cut off."""
        return self._suspended

    def suspend(self) -> None:
        """The listener's connection is gone: silence means nothing."""
        self._suspended = True

    def resume(self) -> None:
        """The listener hears again."""
        self._suspended = False
        self._resumed_s = self._contact_s = now_s = self._clock()
        self._beats = {key: (now_s + RETURN_S, beat) for key, (_, beat) in self._beats.items()}

    def resumed_for_s(self) -> float | None:
        """How long ago the listener was last cut off; None when it never was, or is now."""
        return None if self._suspended or self._resumed_s is None else self._clock() - self._resumed_s

    def contact(self) -> None:
        """Something was heard, if only the listener itself."""
        if self.deaf_for_s() > self._deaf_limit_s:
            self.resume()
        self._contact_s = self._clock()

    def deaf_for_s(self) -> float:
        """How long nothing has been heard, from anybody."""
        return self._clock() - self._contact_s

    def hear(self, beat: Beat) -> None:
        self.contact()
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
        return self.boot(role, worker) is not None

    def boot(self, role: Role, worker: str) -> str | None:
        """Which start of the process is alive; None when none is."""
        beat = self.beat(role, worker)
        return None if beat is None else beat.boot

    def beat(self, role: Role, worker: str) -> Beat | None:
        """The last beat of a process that is alive; None when it is not."""
        known = self._beats.get((role, worker))
        if known is None or not (self._suspended or _speaks(*known, self._now_s())):
            return None
        return known[1]

    def _now_s(self) -> float:
        """Until when silence means something."""
        return self._clock() if self._deaf_limit_s == math.inf else self._contact_s

    def _forget_silent(self) -> None:
        if not self._suspended:
            now_s = self._now_s()
            self._beats = {key: known for key, known in self._beats.items() if _speaks(*known, now_s)}


def _speaks(heard_s: float, beat: Beat, now_s: float) -> bool:
    return now_s - heard_s <= MISSED_BEATS * beat.interval_ms / 1000
