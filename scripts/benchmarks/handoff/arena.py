"""The KV memory of a worker without its model: exports and imports as the torch engine does."""

from __future__ import annotations

import torch
import xxhash

from benchmarks.handoff.plan import PROMPT_TOKENS, SPEC
from shared.core import KvRegion
from shared.engine import kv_bytes, native
from shared.engine.kv_memory import BLOCK_TOKENS, KvMemory
from shared.kv.int8 import Int8Codec


class Arena:
    """One region per lane, named by `key(lane)`. A `KvSource` and a `KvSink`, and the codec that goes with them."""

    def __init__(self, lanes: int) -> None:
        kernels = native.load()
        self.int8 = Int8Codec(None if kernels is None else kernels.int8)
        region_tokens = -(-PROMPT_TOKENS // BLOCK_TOKENS) * BLOCK_TOKENS
        self._memory = KvMemory(SPEC.layout, lanes * region_tokens * SPEC.layout.token_bytes, torch.device("cpu"))
        self._spaces = {key(lane): self._memory.reserve(PROMPT_TOKENS) for lane in range(lanes)}

    def fill(self) -> None:
        """Random numbers everywhere."""
        self._memory.arena.normal_()

    def clear(self) -> None:
        self._memory.arena.zero_()

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        return kv_bytes.parts(self._spaces[key], region)

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        kv_bytes.write(self._spaces[key], region, payload)

    def digests(self) -> tuple[int, ...]:
        """One for each lane's cache."""
        whole = KvRegion(0, SPEC.layout.layers, 0, PROMPT_TOKENS)
        return tuple(xxhash.xxh3_64_intdigest(kv_bytes.read(space, whole)) for space in self._spaces.values())


def key(lane: int) -> str:
    return f"lane {lane}"
