"""Whether a worker may go on with the sessions it holds, or others may have taken them over. Plain object, own clock.

The lease (`shared.bus.lease`) is over before anybody takes the worker for dead. From then on it neither steps nor
speaks. When it hears itself again it asks the gateways which sessions are still its own (`tenure_keeper`), drops the
others without a word, and goes on: a NATS that was gone for everybody costs no recompute. Cut off for `KEEP_S` beyond
the lease it drops all, frees their memory, and comes back with another boot: to all others it was started anew.

    HELD -> CUT (connection gone) -> ASKING (connection back) -> HELD (asked)
    HELD, CUT, ASKING -> LAPSED (lease over) -> ASKING (own beat heard again)
                         LAPSED -> FORFEITED (`KEEP_S` later) -> HELD (own beat heard again)
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable

from shared.bus.lease import Lease
from shared.runtime.beats import new_boot, next_boot

logger = logging.getLogger(__name__)

KEEP_S = 5.0


class TenureState(enum.Enum):
    """`HELD` steps and speaks; `CUT` steps, and what it has to say waits; the others do neither."""

    HELD = enum.auto()
    CUT = enum.auto()
    ASKING = enum.auto()
    LAPSED = enum.auto()
    FORFEITED = enum.auto()


_NEXT = {
    TenureState.HELD: {TenureState.CUT, TenureState.LAPSED},
    TenureState.CUT: {TenureState.ASKING, TenureState.LAPSED},
    TenureState.ASKING: {TenureState.HELD, TenureState.CUT, TenureState.LAPSED},
    TenureState.LAPSED: {TenureState.ASKING, TenureState.FORFEITED},
    TenureState.FORFEITED: {TenureState.HELD},
}
_OVER = (TenureState.LAPSED, TenureState.FORFEITED)


class Tenure:
    """`forfeit` ends all sessions at once and tells nobody. `boot` is what beats must say."""

    def __init__(self, lease: Lease, forfeit: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.boot = new_boot()
        self._lease = lease
        self._forfeit = forfeit
        self._clock = clock
        self._state = TenureState.HELD
        self._lapsed_at_s = 0.0
        self._changed = asyncio.Event()

    @property
    def state(self) -> TenureState:
        """As of now: what is over by the clock is over, even if the process slept meanwhile and nobody noticed."""
        if self._state not in _OVER and (left_s := self._lease.left_s()) <= 0:
            logger.warning("cut off: sessions wait until this worker is heard again")
            self._lapsed_at_s = self._clock() + left_s
            self._enter(TenureState.LAPSED)
        if self._state is TenureState.LAPSED and self._clock() - self._lapsed_at_s > KEEP_S:
            logger.warning("cut off for too long: all sessions are dropped")
            self.boot = next_boot(self.boot)
            self._enter(TenureState.FORFEITED)
            self._forfeit()
        return self._state

    def lapsed_for_s(self) -> float:
        """How long it has not been heard beyond its lease; 0 while the lease runs."""
        return self._clock() - self._lapsed_at_s if self.state in _OVER else 0.0

    async def may_step(self) -> None:
        """Wait until sessions may be advanced."""
        while self.state not in (TenureState.HELD, TenureState.CUT):
            await self._changed.wait()

    async def may_speak(self) -> None:
        """Wait until what was computed may be said."""
        while self.state is not TenureState.HELD:
            await self._changed.wait()

    async def changed(self, within_s: float) -> None:
        """Wait for another state, but not longer than that."""
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            return

    def disconnected(self) -> None:
        """The connection is gone: what was said last may be lost."""
        if self.state in (TenureState.HELD, TenureState.ASKING):
            self._enter(TenureState.CUT)

    def reconnected(self) -> None:
        """The connection is back."""
        if self.state is TenureState.CUT:
            self._enter(TenureState.ASKING)

    def heard(self, number: int) -> None:
        """Our own beat of this number has come back."""
        state = self.state
        self._lease.heard(number)
        if state not in _OVER or self._lease.left_s() <= 0:
            return
        logger.info("heard again after %.1f s", self.lapsed_for_s())
        self._enter(TenureState.ASKING if state is TenureState.LAPSED else TenureState.HELD)

    def asked(self) -> None:
        """All gateways have said what goes on, and the rest is dropped."""
        if self.state is TenureState.ASKING:
            self._enter(TenureState.HELD)

    def _enter(self, state: TenureState) -> None:
        if state not in _NEXT[self._state]:
            raise ValueError(f"tenure: {self._state.name} -> {state.name}")
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()
