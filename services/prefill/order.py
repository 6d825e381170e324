"""In which order prompts are computed: a key for each that waits or is under way, the least first."""

from __future__ import annotations

import enum
from collections.abc import Callable

from services.prefill.run import PrefillRun


class Order(enum.StrEnum):
    """`ARRIVAL`: first come, first served. `SHORTEST`: what is done soonest, but nobody waits for ever."""

    ARRIVAL = "arrival"
    SHORTEST = "shortest"


def rank_of(order: Order, aging_tokens_per_s: float) -> Callable[[PrefillRun, float], float]:
    """The key of a run at a moment.

    By `SHORTEST` a prompt counts its remaining tokens less `aging_tokens_per_s` for each second it has waited: one of
    n tokens waits for no prompt that came n / `aging_tokens_per_s` seconds after it. What is cached of a prompt
    is known once it has its memory: until then it counts as well.
    """
    if order is Order.ARRIVAL:
        return lambda run, now_s: -run.waited_s(now_s)
    return lambda run, now_s: run.remaining_tokens - aging_tokens_per_s * run.waited_s(now_s)
