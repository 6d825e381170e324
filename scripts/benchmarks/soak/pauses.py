"""How long streams stood still after each fault."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.soak.chaos import Injury
from benchmarks.soak.plan import KINDS, Action
from benchmarks.soak.record import Record

AFTER_S = 5.0


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """Over the faults of one kind: the longest pause of any stream after each, in seconds."""

    count: int
    p50_s: float
    p99_s: float
    max_s: float


def pauses_by_kind(injuries: Iterable[Injury], records: Sequence[Record]) -> dict[str, Pauses]:
    """By kind of fault. A pause that follows two faults counts for both."""
    longest: defaultdict[str, list[float]] = defaultdict(list)
    for injury in injuries:
        longest[injury.kind].append(max((_longest_s(record, injury) for record in records), default=0.0))
    return {kind: _summary(sorted(pauses_s)) for kind, pauses_s in sorted(longest.items())}


def _longest_s(record: Record, injury: Injury) -> float:
    """The longest wait of one stream for its next piece, that the fault met or that began soon after it."""
    if record.moments_s[-1] < injury.from_s or record.started_s > injury.until_s + AFTER_S:
        return 0.0
    # A burst makes new requests queue: only streams that have begun tell what it does to others.
    moments_s = record.moments_s[1:] if KINDS[injury.kind][0] is Action.BURST else record.moments_s
    pairs = itertools.pairwise(moments_s)
    return max(
        (
            later - max(earlier, injury.from_s)
            for earlier, later in pairs
            if later > injury.from_s and earlier < injury.until_s + AFTER_S
        ),
        default=0.0,
    )


def _summary(pauses_s: list[float]) -> Pauses:
    p99_s = pauses_s[min(len(pauses_s) - 1, round(0.99 * (len(pauses_s) - 1)))]
    return Pauses(count=len(pauses_s), p50_s=statistics.median(pauses_s), p99_s=p99_s, max_s=pauses_s[-1])
