"""An engine without torch: deterministic, instant or slowed on purpose, with the same contract as the real one.

Its "cache" is real memory whose every byte matters: each cell holds a running hash of the tokens before it, and the
next token is a hash over all cells and their places. A chunk that is lost, misplaced or changed changes the tokens.
Tests of gateway, scheduler, protocol and faults use it; `--engine fake` runs it in the worker services.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from shared.core import KvLayout, KvRegion, ModelSpec, SampledToken, TokenLogprob
from shared.engine.contract import KvUsage, OnLayer, PrefillSlice, SequenceSpec
from shared.engine.kv_blocks import KvBlocks, SequenceBlocks
from shared.errors import ContextExceeded, InvalidRequest

FAKE_LAYOUT = KvLayout(layers=4, kv_heads=1, head_dim=2, dtype="float32")
FAKE_FINGERPRINT = "fa4efa4efa4efa4e"

_MASK = (1 << 64) - 1

Columns = npt.NDArray[np.int64]


def fake_spec(
    name: str = "fake", vocab_size: int = 512, context_tokens: int = 4096, eos_token_ids: tuple[int, ...] = ()
) -> ModelSpec:
    """A model spec the fake engine can serve; without end-of-sequence tokens every answer has full length."""
    return ModelSpec(
        name=name,
        fingerprint=FAKE_FINGERPRINT,
        vocab_size=vocab_size,
        context_tokens=context_tokens,
        eos_token_ids=eos_token_ids,
        layout=FAKE_LAYOUT,
        arithmetic="fake",
    )


class FakePace(msgspec.Struct, frozen=True):
    """How long the fake takes: per prompt token, and per decode step. Zero is instant."""

    prefill_token_s: float = 0.0
    step_s: float = 0.0


class FakePoison(msgspec.Struct, frozen=True):
    """Token ids that, anywhere in a prompt, break the call that computes with it; -1 is none.

    `crash` kills the process, `error` raises, `hang` never returns.
    """

    crash: int = -1
    error: int = -1
    hang: int = -1


class _FakeSequence:
    """`columns` are its places in the engine's cells, one for each token; the first `filled_tokens` are written."""

    def __init__(self, spec: SequenceSpec, blocks: SequenceBlocks, columns: Columns) -> None:
        self.ids = list(spec.prompt_ids)
        self.prompt = frozenset(self.ids[: len(self.ids) - spec.emitted])
        self.sampling = spec.sampling
        self.prompt_tokens = len(self.ids)
        self.blocks = blocks
        self.columns = columns
        self.filled_tokens = blocks.cached_tokens


class FakeEngine:
    """See `shared.engine.contract.Engine` for what each method promises."""

    def __init__(
        self,
        spec: ModelSpec,
        kv_bytes: int = 1 << 20,
        pace: FakePace | None = None,
        poison: FakePoison | None = None,
        *,
        block_tokens: int = 1,
        prefix_cache: bool = False,
    ) -> None:
        """KV memory is lent in blocks of `block_tokens` tokens; with `prefix_cache`, prompts find their beginnings."""
        self._spec = spec
        self._block_tokens = block_tokens
        self._block_bytes = block_tokens * spec.layout.token_bytes
        self._blocks = KvBlocks(kv_bytes // self._block_bytes, block_tokens, prefixes=prefix_cache)
        self._cells = np.zeros((spec.layout.layers, 2, self._blocks.count * block_tokens), dtype=np.uint64)
        self._pace = pace or FakePace()
        self._poison = poison or FakePoison()
        self._sequences: dict[str, _FakeSequence] = {}
        self._heads = np.arange(1, spec.layout.layers * 2 + 1, dtype=np.uint64).reshape(-1, 2)
        # Odd, so that every bit of a cell counts; all different, so that cells that changed places count too.
        cells = spec.layout.layers * 2 * spec.context_tokens
        self._weights = np.arange(1, 2 * cells, 2, dtype=np.uint64).reshape(spec.layout.layers, 2, spec.context_tokens)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def usage(self) -> KvUsage:
        count, free, kept = self._blocks.count, self._blocks.free, self._blocks.kept
        return KvUsage(count * self._block_bytes, free * self._block_bytes, kept * self._block_bytes)

    def open(self, sequence: SequenceSpec) -> int:
        if sequence.key in self._sequences:
            raise ValueError(f"sequence {sequence.key!r} is open already")
        if sequence.capacity_tokens > self._spec.context_tokens:
            raise ContextExceeded(f"{sequence.capacity_tokens} tokens exceed {self._spec.context_tokens}")
        if any(not 0 <= token < self._spec.vocab_size for token in sequence.prompt_ids):
            raise InvalidRequest("token id outside the vocabulary", param="prompt")
        for other in list(self._sequences.values()):
            self._share(other)
        blocks = self._blocks.open(sequence.prompt_ids, sequence.capacity_tokens, sequence.cache_salt)
        self._sequences[sequence.key] = _FakeSequence(sequence, blocks, self._columns(blocks))
        return blocks.cached_tokens

    def close(self, key: str) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            self._share(sequence)
            self._blocks.close(sequence.blocks)

    def _columns(self, blocks: SequenceBlocks) -> Columns:
        first = np.array(blocks.numbers, dtype=np.int64)[:, None] * self._block_tokens
        return (first + np.arange(self._block_tokens)).reshape(-1)

    def _share(self, sequence: _FakeSequence) -> None:
        self._blocks.fill(sequence.blocks, sequence.ids, sequence.filled_tokens)

    def prefill(self, slices: Sequence[PrefillSlice], on_layer: OnLayer | None = None) -> list[SampledToken | None]:
        self._swallow(part.key for part in slices)
        tokens = sum(part.stop - part.start for part in slices)
        time.sleep(self._pace.prefill_token_s * tokens)
        sampled = [self._prefill_one(part) for part in slices]
        if on_layer is not None:
            for layers in range(1, self._spec.layout.layers + 1):
                on_layer(layers)
        return sampled

    def _prefill_one(self, part: PrefillSlice) -> SampledToken | None:
        sequence = self._sequences[part.key]
        if part.start < sequence.blocks.cached_tokens:
            raise ValueError(f"{part} is cached up to {sequence.blocks.cached_tokens}")
        for position in range(part.start, part.stop):
            self._write_cell(sequence, position)
        sequence.filled_tokens = part.stop
        return self._sample(sequence) if part.stop == len(sequence.ids) else None

    def export_kv(self, key: str, region: KvRegion) -> memoryview:
        columns = self._sequences[key].columns[region.token_start : region.token_stop]
        cells = self._cells[region.layer_start : region.layer_stop, :, columns]
        return np.ascontiguousarray(cells).data.cast("B")

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        return [self.export_kv(key, region)]

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        columns = self._sequences[key].columns[region.token_start : region.token_stop]
        cells = np.frombuffer(payload, dtype=np.uint64).reshape(region.layers, 2, region.tokens)
        self._cells[region.layer_start : region.layer_stop, :, columns] = cells

    def append(self, key: str, token_id: int) -> None:
        sequence = self._sequences[key]
        sequence.filled_tokens = sequence.prompt_tokens
        sequence.ids.append(token_id)

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        self._swallow(keys)
        time.sleep(self._pace.step_s)
        sampled = []
        for key in keys:
            sequence = self._sequences[key]
            self._write_cell(sequence, len(sequence.ids) - 1)
            sequence.filled_tokens = len(sequence.ids)
            sampled.append(self._sample(sequence))
        return sampled

    def _swallow(self, keys: Iterable[str]) -> None:
        """Poison works before anything is computed, as the contract wants it of a call that raises."""
        poison = self._poison
        if poison == _NO_POISON:
            return
        ids = {token for key in keys for token in self._sequences[key].prompt}
        if poison.crash in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if poison.hang in ids:
            threading.Event().wait()
        if poison.error in ids:
            raise ArithmeticError(f"token {poison.error} is poison")

    def _write_cell(self, sequence: _FakeSequence, position: int) -> None:
        before = int(self._cells[0, 0, sequence.columns[position - 1]]) if position else 0
        running = _mix(before ^ sequence.ids[position])
        self._cells[:, :, sequence.columns[position]] = np.uint64(running) * self._heads

    def _sample(self, sequence: _FakeSequence) -> SampledToken:
        position = len(sequence.ids)
        weighted = self._cells[:, :, sequence.columns[:position]] * self._weights[:, :, :position]
        seen = int(weighted.sum(dtype=np.uint64))
        noise = 0 if sequence.sampling.greedy else sequence.sampling.seed & _MASK
        token = _mix(seen ^ _mix(noise ^ position)) % self._spec.vocab_size
        sequence.ids.append(token)
        return SampledToken(token, self._logprob(token, sequence))

    def _logprob(self, token: int, sequence: _FakeSequence) -> TokenLogprob | None:
        count = sequence.sampling.logprobs
        if count is None:
            return None
        others = [(token + offset) % self._spec.vocab_size for offset in range(count)]
        return TokenLogprob(-0.5, tuple((other, -0.5 - rank) for rank, other in enumerate(others)))


_NO_POISON = FakePoison()


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
