"""How long nobody can take this process for dead yet: by its own beats that came back to it. No I/O.

A beat that came back has reached the server, and was heard by others no earlier than it was sent. They count
`MISSED_BEATS` intervals from then; the lease counts fewer from the sending, on this process's own clock. So it is over
before anybody else may act, whatever happened meanwhile: a cut network, a frozen process, a server that is gone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from shared.bus.liveness import MISSED_BEATS

LEASE_BEATS = MISSED_BEATS - 0.25
REMEMBERED = 1024


class Lease:
    """Number each beat with `sent` right before it goes; tell `heard` which number came back."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._duration_s = LEASE_BEATS * interval_s
        self._clock = clock
        self._number = 0
        self._sent_s: OrderedDict[int, float] = OrderedDict()
        self._ends_s = clock() + self._duration_s

    @property
    def number(self) -> int:
        """That of the last beat sent; 0 before the first."""
        return self._number

    def sent(self) -> int:
        """The number of the beat that is sent now."""
        self._number += 1
        self._sent_s[self._number] = self._clock()
        if len(self._sent_s) > REMEMBERED:
            self._sent_s.popitem(last=False)
        return self._number

    def heard(self, number: int) -> None:
        """The beat of this number is back. Anyone else's number, or one heard before, changes nothing."""
        sent_s = self._sent_s.get(number)
        if sent_s is None:
            return
        self._ends_s = max(self._ends_s, sent_s + self._duration_s)
        while self._sent_s and next(iter(self._sent_s)) <= number:
            self._sent_s.popitem(last=False)

    def left_s(self) -> float:
        """Negative once it is over: since when."""
        return self._ends_s - self._clock()
