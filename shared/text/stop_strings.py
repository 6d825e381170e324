"""Finds the stop strings of a generation in text that arrives in pieces, and holds back what may yet become one.

The stop string that is complete first ends the text; of several complete at the same character the longest does, so
that no part of a matched one is ever passed on. That depends on the characters alone, never on how they were cut into
pieces. Knows nothing of tokens. `detokenizer.py` uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.errors import InvalidRequest


class StopScan(msgspec.Struct, frozen=True):
    """`text` may be passed on. `match` is the stop string that ended it; then all text after it is void."""

    text: str
    match: str | None = None


class _Matcher:
    """One stop string, matched a character at a time in amortised constant time (Knuth, Morris, Pratt)."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = _fallbacks(stop)

    def feed(self, character: str) -> bool:
        """Whether `character` completes the stop string."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._fallback[self.matched - 1]
        if self.stop[self.matched] == character:
            self.matched += 1
        return self.matched == len(self.stop)


class StopStrings:
    """Push text piece by piece; `finish` returns what was held back. Memory: at most the longest stop string.

    Raises InvalidRequest for an empty stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise InvalidRequest("a stop string must not be empty", param="stop")
        self._matchers = [_Matcher(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._held = ""

    def push(self, text: str) -> StopScan:
        """What of all text so far may now be passed on. Not to be called again after a match."""
        if not self._matchers:
            return StopScan(text)
        known = self._held + text
        for position, character in enumerate(text, start=len(self._held)):
            stop = self._feed(character)
            if stop is not None:
                self._held = ""
                return StopScan(known[: position + 1 - len(stop)], stop)
        safe = len(known) - max(matcher.matched for matcher in self._matchers)
        self._held = known[safe:]
        return StopScan(known[:safe])

    def finish(self) -> str:
        """The text held back: no more will come, so no stop string can complete in it."""
        held, self._held = self._held, ""
        return held

    def _feed(self, character: str) -> str | None:
        completed = [matcher.stop for matcher in self._matchers if matcher.feed(character)]
        return completed[0] if completed else None


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper prefix that is also its suffix."""
    fallbacks = [0] * len(stop)
    length = 0
    for index in range(1, len(stop)):
        while length and stop[index] != stop[length]:
            length = fallbacks[length - 1]
        if stop[index] == stop[length]:
            length += 1
        fallbacks[index] = length
    return fallbacks
