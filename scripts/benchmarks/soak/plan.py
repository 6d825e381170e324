"""What one soak does: how long, on which fleet, at what rate, with which faults. All of it follows from the seed."""

from __future__ import annotations

import enum
import random

import msgspec

from shared.core import Role
from shared.runtime.process_settings import EngineKind

FREEZE_S = (1.0, 8.0)
SMALLEST_PAUSE_S = 0.5


class Action(enum.StrEnum):
    """What is done to a part. `freeze` is SIGSTOP then SIGCONT, `stop` SIGTERM.

    `hold` keeps all bytes between a worker and NATS back and delivers them later, `cut` resets its connections and
    refuses new ones. `nats` kills the NATS server, which is back after 2 s. `burst` asks for more KV memory than there
    is.
    """

    KILL = "kill"
    FREEZE = "freeze"
    STOP = "stop"
    HOLD = "hold"
    CUT = "cut"
    NATS = "nats"
    BURST = "burst"


WORKERS = (Role.PREFILL, Role.DECODE)
KINDS: dict[str, tuple[Action, Role | None]] = {
    **{f"{action}-{role}": (action, role) for action in (Action.KILL, Action.FREEZE, Action.STOP) for role in Role},
    **{f"{action}-{role}": (action, role) for action in (Action.HOLD, Action.CUT) for role in WORKERS},
    "nats": (Action.NATS, None),
    "burst": (Action.BURST, None),
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`rate_per_s` are requests, `fault_every_s` is the mean time between two faults, `kinds` are keys of `KINDS`."""

    duration_s: float
    seed: int
    engine: EngineKind
    rate_per_s: float
    fault_every_s: float
    kinds: tuple[str, ...]
    gateways: int = 2
    schedulers: int = 2
    prefill: int = 2
    decode: int = 2

    def count(self, role: Role) -> int:
        """How many processes of `role` there are."""
        counts = {Role.GATEWAY: self.gateways, Role.SCHEDULER: self.schedulers, Role.PREFILL: self.prefill}
        return counts.get(role, self.decode)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`at_s` counts from the start of the load, `number` picks a part of the role, `lasts_s` is for some kinds."""

    at_s: float
    kind: str
    number: int
    lasts_s: float

    @property
    def action(self) -> Action:
        return KINDS[self.kind][0]

    @property
    def role(self) -> Role | None:
        return KINDS[self.kind][1]


def schedule(plan: Plan) -> list[Fault]:
    """The faults of `plan`, the same for the same seed. The last comes early enough to be survived within the load."""
    dice = random.Random(f"{plan.seed} faults")
    faults: list[Fault] = []
    at_s = 2 * SMALLEST_PAUSE_S
    while plan.kinds and (at_s := at_s + SMALLEST_PAUSE_S + dice.expovariate(1 / plan.fault_every_s)) < plan.duration_s:
        kind = dice.choice(plan.kinds)
        faults.append(Fault(at_s=at_s, kind=kind, number=dice.randrange(1 << 16), lasts_s=dice.uniform(*FREEZE_S)))
    return faults
