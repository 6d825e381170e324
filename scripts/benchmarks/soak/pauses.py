"""How long streams stood still after each fault."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.soak.chaos import Injury
from benchmarks.soak.record import Record

AFTER_S = 5.0


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """Over the faults of one kind, in seconds: the longest pause of any running stream after each.

    `first_s` is the longest wait for a first token.
    """

    count: int
    p50_s: float
    p99_s: float
    max_s: float
    first_s: float


def pauses_by_kind(injuries: Iterable[Injury], records: Sequence[Record]) -> dict[str, Pauses]:
    """By kind of fault. A pause that follows two faults counts for both."""
    running: defaultdict[str, list[float]] = defaultdict(list)
    waiting: defaultdict[str, list[float]] = defaultdict(list)
    for injury in injuries:
        met = [record.moments_s for record in records if _meets(record, injury)]
        running[injury.kind].append(max((_longest_s(moments_s[1:], injury) for moments_s in met), default=0.0))
        waiting[injury.kind].append(max((_longest_s(moments_s[:2], injury) for moments_s in met), default=0.0))
    return {kind: _summary(sorted(running[kind]), max(waiting[kind])) for kind in sorted(running)}


def _meets(record: Record, injury: Injury) -> bool:
    return record.moments_s[-1] >= injury.from_s and record.started_s <= injury.until_s + AFTER_S


def _longest_s(moments_s: Sequence[float], injury: Injury) -> float:
    """The longest time between two moments that the fault met or that began soon after it."""
    return max(
        (
            later - max(earlier, injury.from_s)
            for earlier, later in itertools.pairwise(moments_s)
            if later > injury.from_s and earlier < injury.until_s + AFTER_S
        ),
        default=0.0,
    )


def _summary(pauses_s: list[float], first_s: float) -> Pauses:
    p99_s = pauses_s[round(0.99 * (len(pauses_s) - 1))]
    median_s = statistics.median(pauses_s)
    return Pauses(count=len(pauses_s), p50_s=median_s, p99_s=p99_s, max_s=pauses_s[-1], first_s=first_s)
