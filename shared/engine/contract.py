"""What prefill and decode services need of an engine. The torch engine and the fake one implement it alike.

Guarantees every engine gives:

- Determinism: the tokens of a sequence depend on its prompt, its sampling parameters and the model alone; not on who
  shares a batch, how the prompt was cut into slices, or which worker computed which part.
- Memory: KV memory is allocated once. `open` takes a sequence's whole share or nothing; no later call can run out.
- Isolation: no call on one key touches the KV of another. What sequences share, they only read.
- Reuse: the KV of a prompt's beginning, once computed or imported, may be found by a later `open` with the same salt.
  It is what computing it again would give, bit for bit where the engine's bits do not depend on the cut.
- A `prefill` or `step` that raises has left every sequence as it was, but for KV of the tokens it was given: the same
  call may be made again, with all of the sequences or some.

Threads: `prefill` and `step` run on the engine's own thread, one at a time. All other methods run on the event loop's
thread, may run beside them, are short, and are never called for a key that is in the running `prefill` or `step`;
except `export_kv` and `export_kv_parts` of what is computed: tokens of an earlier call, layers that `on_layer` told of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from shared.core import KvRegion, ModelSpec, SampledToken, SamplingParams

OnLayer = Callable[[int], None]
"""Told, on the engine's thread, how many layers hold the KV of all slices of the running call."""


class SequenceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence an engine shall hold.

    `prompt_ids` are all tokens known at the start; the last `emitted` of them were generated already (they count for
    penalties and `min_tokens`, and the position of the next draw is `len(prompt_ids)`). `capacity_tokens` is how many
    tokens' KV to reserve. Sequences of different `cache_salt` never share what is cached.
    """

    key: str
    prompt_ids: Sequence[int]
    sampling: SamplingParams
    capacity_tokens: int
    emitted: int = 0
    cache_salt: str = ""


class PrefillSlice(msgspec.Struct, frozen=True):
    """Compute prompt tokens `[start, stop)` of `key`; all before `start` are in the cache already.

    `start` is not below what `open` said to be cached.
    """

    key: str
    start: int
    stop: int


class KvUsage(msgspec.Struct, frozen=True):
    """KV memory in bytes. At rest `free_bytes == total_bytes`: `kept_bytes` of it still hold beginnings of prompts."""

    total_bytes: int
    free_bytes: int
    kept_bytes: int = 0


class Engine(Protocol):
    """A model that computes, holds and hands over KV caches. See the module docstring for the guarantees."""

    @property
    def spec(self) -> ModelSpec:
        """What this engine serves, and the layout of its cache."""

    def usage(self) -> KvUsage:
        """KV memory now."""

    def open(self, sequence: SequenceSpec) -> int:
        """Take up a sequence and reserve its KV memory. Returns how many tokens of the prompt are in the cache already.

        Fewer than all: the last one's logits are wanted. What is cached is never computed or imported again.
        Raises KvExhausted when the memory is not free now, InvalidRequest for token ids outside the vocabulary, and
        ContextExceeded when the capacity is beyond the context. Then nothing is held.
        """

    def close(self, key: str) -> None:
        """Free everything of `key`. Closing an unknown key does nothing."""

    def prefill(self, slices: Sequence[PrefillSlice], on_layer: OnLayer | None = None) -> list[SampledToken | None]:
        """Compute slices of different sequences in one call. A slice that reaches the prompt's end yields a token.

        `on_layer` is told of the layers in order, or of some of them, or of none: what the call has computed when it
        returns is all there in any case. It must be quick.

        The sampled token is appended to its sequence; its KV is not computed yet.
        """

    def export_kv(self, key: str, region: KvRegion) -> memoryview:
        """The bytes of `region`, `region.size_bytes(spec.layout)` of them. Valid until `close(key)`."""

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        """The same bytes in the same order, in one part or several, copied only where that is cheaper than many parts.

        Parts may be the cache's own memory: read them before `close(key)`. Who may read them later, as a socket may
        that is still being written to, must be sure that the reader checks what comes.
        """

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        """Write `region`. The caller has checked that it fits the layout, the capacity and `payload`."""

    def append(self, key: str, token_id: int) -> None:
        """Add a token sampled elsewhere, after the whole prompt's KV has been imported; `step` goes on from it."""

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        """Feed each sequence's last token, and sample and append its next one; one forward pass for all keys."""
