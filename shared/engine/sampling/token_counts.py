"""Which token ids occurred in a sequence, and how often; grows by one token at a time. Used for penalties only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """A multiset of token ids, as arrays that a tensor can be made of without a loop."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        ids, counts = np.unique(np.asarray(token_ids, dtype=np.int64), return_counts=True)
        self._ids, self._counts, self._size = ids, counts, len(ids)
        self._slots = {token_id: slot for slot, token_id in enumerate(ids.tolist())}

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Each id once, in no particular order."""
        return self._ids[: self._size]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each of `ids` occurred."""
        return self._counts[: self._size]

    def add(self, token_id: int) -> None:
        slot = self._slots.get(token_id)
        if slot is None:
            slot = self._slots[token_id] = self._size
            self._reserve(slot + 1)
            self._ids[slot], self._counts[slot] = token_id, 0
            self._size += 1
        self._counts[slot] += 1

    def _reserve(self, size: int) -> None:
        if size > len(self._ids):
            capacity = max(16, 2 * size)
            self._ids = np.resize(self._ids, capacity)
            self._counts = np.resize(self._counts, capacity)
