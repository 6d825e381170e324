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

from shared.core import KvLayout, KvRegion, ModelSpec, SampledToken, TokenLogprob
from shared.engine.contract import KvUsage, OnLayer, PrefillSlice, SequenceSpec
from shared.errors import ContextExceeded, InvalidRequest, KvExhausted

FAKE_LAYOUT = KvLayout(layers=4, kv_heads=1, head_dim=2, dtype="float32")
FAKE_FINGERPRINT = "fa4efa4efa4efa4e"

_MASK = (1 << 64) - 1


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
    """Token ids that, anywhere in a sequence, break the call that computes with it; -1 is none.

    `crash` kills the process, `error` raises, `hang` never returns.
    """

    crash: int = -1
    error: int = -1
    hang: int = -1


class _FakeSequence:
    def __init__(self, spec: SequenceSpec, layers: int) -> None:
        self.ids = list(spec.prompt_ids)
        self.sampling = spec.sampling
        self.cells = np.zeros((layers, 2, spec.capacity_tokens), dtype=np.uint64)


class FakeEngine:
    """See `shared.engine.contract.Engine` for what each method promises."""

    def __init__(
        self,
        spec: ModelSpec,
        kv_bytes: int = 1 << 20,
        pace: FakePace | None = None,
        poison: FakePoison | None = None,
    ) -> None:
        self._spec = spec
        self._total_bytes = kv_bytes
        self._used_bytes = 0
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
        return KvUsage(self._total_bytes, self._total_bytes - self._used_bytes)

    def open(self, sequence: SequenceSpec) -> None:
        if sequence.key in self._sequences:
            raise ValueError(f"sequence {sequence.key!r} is open already")
        if sequence.capacity_tokens > self._spec.context_tokens:
            raise ContextExceeded(f"{sequence.capacity_tokens} tokens exceed {self._spec.context_tokens}")
        if any(not 0 <= token < self._spec.vocab_size for token in sequence.prompt_ids):
            raise InvalidRequest("token id outside the vocabulary", param="prompt")
        size_bytes = sequence.capacity_tokens * self._spec.layout.token_bytes
        if self._used_bytes + size_bytes > self._total_bytes:
            raise KvExhausted(f"{size_bytes} bytes of KV memory are not free")
        self._used_bytes += size_bytes
        self._sequences[sequence.key] = _FakeSequence(sequence, self._spec.layout.layers)

    def close(self, key: str) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            self._used_bytes -= sequence.cells.shape[2] * self._spec.layout.token_bytes

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
        for position in range(part.start, part.stop):
            self._write_cell(sequence, position)
        return self._sample(sequence) if part.stop == len(sequence.ids) else None

    def export_kv(self, key: str, region: KvRegion) -> memoryview:
        block = self._sequences[key].cells[_index(region)]
        return np.ascontiguousarray(block).data.cast("B")

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        return [self.export_kv(key, region)]

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        cells = self._sequences[key].cells[_index(region)]
        cells[:] = np.frombuffer(payload, dtype=np.uint64).reshape(cells.shape)

    def append(self, key: str, token_id: int) -> None:
        self._sequences[key].ids.append(token_id)

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        self._swallow(keys)
        time.sleep(self._pace.step_s)
        sampled = []
        for key in keys:
            sequence = self._sequences[key]
            self._write_cell(sequence, len(sequence.ids) - 1)
            sampled.append(self._sample(sequence))
        return sampled

    def _swallow(self, keys: Iterable[str]) -> None:
        """Poison works before anything is computed, as the contract wants it of a call that raises."""
        poison = self._poison
        ids = {token for key in keys for token in self._sequences[key].ids} if poison != _NO_POISON else ()
        if poison.crash in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if poison.hang in ids:
            threading.Event().wait()
        if poison.error in ids:
            raise ArithmeticError(f"token {poison.error} is poison")

    def _write_cell(self, sequence: _FakeSequence, position: int) -> None:
        before = int(sequence.cells[0, 0, position - 1]) if position else 0
        running = _mix(before ^ sequence.ids[position])
        sequence.cells[:, :, position] = np.uint64(running) * self._heads

    def _sample(self, sequence: _FakeSequence) -> SampledToken:
        position = len(sequence.ids)
        weighted = sequence.cells[:, :, :position] * self._weights[:, :, :position]
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


def _index(region: KvRegion) -> tuple[slice, slice, slice]:
    return slice(region.layer_start, region.layer_stop), slice(None), slice(region.token_start, region.token_stop)


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
