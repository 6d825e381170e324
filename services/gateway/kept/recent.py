"""The last of something, up to a sum of sizes. Plain object."""

from __future__ import annotations

from collections import OrderedDict


class Recent:
    """Names with their sizes, whose sum is at most `limit`, or that of the last one alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._sum = 0

    def add(self, name: str, size: int) -> list[str]:
        """Make it the last one. Returns those before it that are none any more, the oldest first."""
        self._sum += size - self._sizes.pop(name, 0)
        self._sizes[name] = size
        gone = []
        while self._sum > self._limit and len(self._sizes) > 1:
            oldest, its_size = self._sizes.popitem(last=False)
            self._sum -= its_size
            gone.append(oldest)
        return gone
