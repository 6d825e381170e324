"""Which workers have lately had which beginnings of prompts: a guess at what their prefix caches still hold.

Made from this scheduler's own placements alone, and bounded: a wrong guess costs some time, nothing else. Knows no
load; `Placer` asks it, `Fleet` weighs what it says.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from shared.core import Role
from shared.engine.kv_blocks import first_name, next_name
from shared.protocol.to_all import Beat
from shared.protocol.wire import ID_BYTES, unpack_ids

BLOCK_TOKENS = 64
REMEMBERED = 65536
HOLDERS = 64


class WorkerStart(msgspec.Struct, frozen=True):
    """One life of a worker: a new one begins with an empty cache."""

    role: Role
    worker: str
    boot: str


Cached = Mapping[WorkerStart, int]
"""Tokens of a prompt's beginning, by worker. One that is not there has none."""


def start_of(beat: Beat) -> WorkerStart:
    return WorkerStart(beat.role, beat.worker, beat.boot)


def beginnings(prompt_ids: bytes, salt: str) -> list[bytes]:
    """The names of the whole blocks of a prompt (int32 bytes), but for its last token."""
    names = []
    name = first_name(salt)
    for start in range(0, len(prompt_ids) - BLOCK_TOKENS * ID_BYTES, BLOCK_TOKENS * ID_BYTES):
        name = next_name(name, unpack_ids(prompt_ids[start : start + BLOCK_TOKENS * ID_BYTES]))
        names.append(name)
    return names


class PrefixAffinity:
    """Remembers, for the last `remembered` blocks used, which `HOLDERS` workers have had them of late."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._holders: OrderedDict[bytes, dict[tuple[Role, str], WorkerStart]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def note(self, names: Sequence[bytes], *holders: WorkerStart) -> None:
        """A prompt of these blocks was placed on `holders`. The deepest block is the first to be forgotten.

        A worker's earlier start is forgotten at once. One that never comes back makes room for those that do.
        """
        for name in reversed(names):
            known = self._holders.setdefault(name, {})
            for one in holders:
                known.pop((one.role, one.worker), None)
                known[one.role, one.worker] = one
            while len(known) > HOLDERS:
                del known[next(iter(known))]
            self._holders.move_to_end(name)
        while len(self._holders) > self._remembered:
            self._holders.popitem(last=False)

    def cached(self, names: Sequence[bytes]) -> dict[WorkerStart, int]:
        """How many tokens of the beginning each worker has had without a gap."""
        depths: dict[WorkerStart, int] = {}
        for depth, name in enumerate(names):
            known = self._holders.get(name, {})
            unbroken = [one for one in known.values() if depths.get(one, 0) == depth]
            if not unbroken:
                break
            depths.update((one, depth + 1) for one in unbroken)
        return {one: blocks * BLOCK_TOKENS for one, blocks in depths.items()}
