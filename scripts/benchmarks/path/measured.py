"""What is measured of one request, wherever it ran."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Self

import msgspec


class Measured(msgspec.Struct, frozen=True):
    """Milliseconds: until the first token, and the median time between tokens."""

    ttft_ms: float
    itl_ms: float

    @classmethod
    def of(cls, moments_s: Sequence[float]) -> Self:
        """From the moment it was asked, and those at which tokens came; at least two."""
        gaps_s = [later - sooner for sooner, later in itertools.pairwise(moments_s)]
        return cls(1000 * gaps_s[0], 1000 * statistics.median(gaps_s[1:]))


def median(all_measured: Sequence[Measured]) -> Measured:
    """Of each figure on its own."""
    return Measured(
        statistics.median(one.ttft_ms for one in all_measured), statistics.median(one.itl_ms for one in all_measured)
    )
