"""Breaks and mends parts of the fleet by the plan's schedule."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter

import msgspec

from benchmarks.soak.diary import Diary
from benchmarks.soak.fleet import NATS, NATS_OUTAGE_S, Fleet
from benchmarks.soak.load import Load
from benchmarks.soak.plan import Action, Fault
from shared.runtime.tasks import Tasks

WAIT_S = 5.0
LOOK_S = 0.1
SIGNALS = {Action.KILL: signal.SIGKILL, Action.STOP: signal.SIGTERM, Action.FREEZE: signal.SIGSTOP}


class Injury(msgspec.Struct, frozen=True):
    """A fault that was done, to whom, and from when to when."""

    kind: str
    target: str
    from_s: float
    until_s: float


class Chaos:
    """`injuries` in order; `skipped` counts faults that would have left a role without a ready process for too long."""

    def __init__(self, fleet: Fleet, load: Load, tasks: Tasks, diary: Diary) -> None:
        self.injuries: list[Injury] = []
        self.skipped: Counter[str] = Counter()
        self._fleet = fleet
        self._load = load
        self._tasks = tasks
        self._diary = diary

    async def run(self, faults: list[Fault]) -> None:
        """Task body: all of `faults`, each in time if there is a target."""
        began_s = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(0.0, began_s + fault.at_s - time.monotonic()))
            target = await self._target(fault)
            if target is None:
                self.skipped[fault.kind] += 1
            else:
                self._tasks.start(self._inflict(fault, target), name=f"{fault.kind} {target}")

    async def _target(self, fault: Fault) -> str | None:
        """Who may be hit now, or soon: another of its role must be ready."""
        if fault.action is Action.BURST:
            return "all"
        names = [NATS] if fault.role is None else self._fleet.of(fault.role)
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            ready = [name for name in names if self._fleet.whole(name)]
            if len(ready) > 1 or ready == [NATS]:
                return ready[fault.number % len(ready)]
            await asyncio.sleep(LOOK_S)
        return None

    async def _inflict(self, fault: Fault, target: str) -> None:
        lasts_s = fault.lasts_s if fault.action in (Action.FREEZE, Action.HOLD, Action.CUT) else 0.0
        lasts_s = NATS_OUTAGE_S if fault.action is Action.NATS else lasts_s
        now_s = time.monotonic()
        self._diary.note(f"{fault.kind} {target}" + (f" for {lasts_s:.1f} s" if lasts_s else ""))
        self.injuries.append(Injury(fault.kind, target, now_s, now_s + lasts_s))
        match fault.action:
            case Action.BURST:
                self._load.burst()
            case Action.NATS:
                self._fleet.parts[target].signal(signal.SIGKILL)
            case Action.HOLD | Action.CUT:
                await self._isolate(fault.action, target, lasts_s)
            case Action.FREEZE:
                await self._freeze(target, lasts_s)
            case _:
                self._fleet.parts[target].signal(SIGNALS[fault.action])

    async def _freeze(self, target: str, lasts_s: float) -> None:
        part = self._fleet.parts[target]
        part.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            part.signal(signal.SIGCONT)

    async def _isolate(self, action: Action, target: str, lasts_s: float) -> None:
        proxy, part = self._fleet.proxies[target], self._fleet.parts[target]
        part.touch()
        (proxy.hold if action is Action.HOLD else proxy.cut)()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            proxy.heal()
            part.touch()
