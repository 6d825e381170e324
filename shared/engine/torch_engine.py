"""The engine on torch: sequences, their KV memory, and one packed forward pass per call.

Implements `contract.Engine`; the guarantees and the rule of threads are written there. Knows no service and no bus;
the model itself is behind `runner.Runner`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

from shared.core import KvLayout, KvRegion, ModelSpec, SampledToken, SamplingParams
from shared.engine import kv_bytes as kv_transfer
from shared.engine import native
from shared.engine.arithmetic import arithmetic
from shared.engine.checkpoint import fingerprint, read_checkpoint
from shared.engine.contract import KvUsage, OnLayer, PrefillSlice, SequenceSpec
from shared.engine.kv_memory import BLOCK_TOKENS, KvMemory, KvSpace, whole_blocks
from shared.engine.load_progress import OnProgress, nobody
from shared.engine.model_loading import load_model
from shared.engine.packed import Piece, pack, tell_nobody
from shared.engine.runner import AnyKernels, Runner
from shared.engine.runner_kind import RunnerKind
from shared.engine.sampling import SamplerState, sample
from shared.engine.team import made_on
from shared.errors import ConfigError, ContextExceeded, InvalidRequest

_CPU_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WARM_UP_KEY = "\0warm-up"
_WARM_UP_TOKENS = 256
_GREEDY = SamplingParams(temperature=0.0)


@dataclass(slots=True)
class EngineSequence:
    """A sequence in the engine: the KV of its first `filled_tokens` is there, and stays.

    Values up to `clean_tokens` are finite, whatever the memory held before.
    """

    tokens: list[int]
    prompt_tokens: int
    space: KvSpace
    sampler: SamplerState
    filled_tokens: int
    clean_tokens: int = field(default=0)
    open: bool = field(default=True)

    def append(self, token_id: int) -> None:
        self.tokens.append(token_id)
        self.sampler.append(token_id)

    def piece(self, start: int, stop: int, *, wants_logits: bool) -> Piece:
        """Tokens `[start, stop)` as part of a batch, with the memory behind them ready to be read."""
        if not self.space.cached_tokens <= start < stop <= min(len(self.tokens), self.space.capacity):
            raise ValueError(
                f"tokens [{start}, {stop}) of {len(self.tokens)}, capacity {self.space.capacity}, "
                f"{self.space.cached_tokens} cached"
            )
        if stop > self.clean_tokens:
            self.clean_tokens = whole_blocks(stop)
            if rest := stop % BLOCK_TOKENS:
                self.space.arena[:, :, self.space.numbers[stop // BLOCK_TOKENS], 1, rest:].zero_()
        return Piece(self.space, self.tokens[start:stop], start, wants_logits)


class TorchEngine:
    """See `contract.Engine`."""

    def __init__(self, spec: ModelSpec, runner: Runner, memory: KvMemory, device: torch.device) -> None:
        self._spec = spec
        self._runner = runner
        self._memory = memory
        self._device = device
        self._sequences: dict[str, EngineSequence] = {}
        self._grown: deque[EngineSequence] = deque()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        name: str,
        dtype: str,
        kv_bytes: int,
        device: str = "cpu",
        threads: int = 1,
        runner: RunnerKind = RunnerKind.AUTO,
        native_kernels: bool = True,
        prefix_cache: bool = False,
        cache: Path | None = None,
        progress: OnProgress = nobody,
    ) -> Self:
        """Load the model in `folder` with `kv_bytes` of KV memory; `threads` compute what can be shared bit by bit.

        On the calling thread torch has that many until this returns, then one.

        With `prefix_cache`, sequences find what others with the same beginning have left in KV memory.

        `native_kernels` are used where the machine can build them, once, into `cache` (default: `baton` in the user's
        cache folder); without them the same model runs in torch calls alone, slower.

        Raises ConfigError for a folder, dtype or device that cannot be, UnsupportedModel for a model that is not
        honoured exactly.
        """
        if dtype not in _CPU_DTYPES:
            raise ConfigError(f"dtype {dtype} is not one of {', '.join(_CPU_DTYPES)}")
        place = cls._place(device)
        checkpoint = read_checkpoint(folder)
        with made_on(threads):
            native_library = cls._native(cache, threads) if native_kernels else None
            model = load_model(checkpoint, _CPU_DTYPES[dtype], place, runner, progress, native=native_library)
            kernels = cls._kernels(model.layout, native_library)
            memory = KvMemory(model.layout, kv_bytes, place, prefixes=prefix_cache)
            built = model.runner(memory, kernels)
        parts = checkpoint.parts()
        spec = ModelSpec(
            name=name,
            fingerprint=fingerprint(parts),
            vocab_size=model.vocab_size,
            context_tokens=model.context_tokens,
            eos_token_ids=checkpoint.eos_token_ids,
            layout=model.layout,
            parts=parts,
            arithmetic=arithmetic(built, model.layout, place, kernels, threads),
        )
        return cls(spec, built, memory, place)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def usage(self) -> KvUsage:
        return self._memory.usage

    def warm_up(self) -> None:
        """Run one prompt and one step, so that the first request finds every kernel built. Call it while idle."""
        total = self.usage().total_bytes // self._spec.layout.token_bytes
        tokens = min(_WARM_UP_TOKENS, self._spec.context_tokens - 1, total - 1)
        sequence = SequenceSpec(
            key=_WARM_UP_KEY,
            prompt_ids=[0] * tokens,
            sampling=_GREEDY,
            capacity_tokens=tokens + 1,
            cache_salt=_WARM_UP_KEY,
        )
        self.open(sequence)
        try:
            self.prefill([PrefillSlice(_WARM_UP_KEY, 0, tokens)])
            self.step([_WARM_UP_KEY])
        finally:
            self.close(_WARM_UP_KEY)

    def open(self, sequence: SequenceSpec) -> int:
        if sequence.key in self._sequences:
            raise ValueError(f"sequence {sequence.key!r} is open already")
        self._check(sequence)
        sampler = SamplerState(
            sequence.sampling,
            sequence.prompt_ids,
            sequence.emitted,
            self._spec.vocab_size,
            self._spec.eos_token_ids,
        )
        self._share_grown()
        space = self._memory.reserve(sequence.capacity_tokens, sequence.prompt_ids, sequence.cache_salt)
        tokens = list(sequence.prompt_ids)
        self._sequences[sequence.key] = EngineSequence(tokens, len(tokens), space, sampler, space.cached_tokens)
        return space.cached_tokens

    def close(self, key: str) -> None:
        sequence = self._sequences.pop(key, None)
        if sequence is not None:
            self._memory.fill(sequence.space, sequence.tokens, sequence.filled_tokens)
            self._memory.release(sequence.space)
            sequence.open = False

    def _share_grown(self) -> None:
        """Let others find what has been computed, or imported, since the last time."""
        while self._grown:
            sequence = self._grown.popleft()
            if sequence.open:
                self._memory.fill(sequence.space, sequence.tokens, sequence.filled_tokens)

    def prefill(self, slices: Sequence[PrefillSlice], on_layer: OnLayer | None = None) -> list[SampledToken | None]:
        sequences = [self._sequences[one.key] for one in slices]
        finishes = [one.stop == sequence.prompt_tokens for one, sequence in zip(slices, sequences, strict=True)]
        pieces = [
            sequence.piece(one.start, one.stop, wants_logits=finished)
            for one, sequence, finished in zip(slices, sequences, finishes, strict=True)
        ]
        finishing = [sequence for sequence, finished in zip(sequences, finishes, strict=True) if finished]
        sampled = self._forward(pieces, finishing, on_layer)
        _append(finishing, sampled)
        for one, sequence in zip(slices, sequences, strict=True):
            sequence.filled_tokens = one.stop
        self._grown.extend(sequences)
        tokens = iter(sampled)
        return [next(tokens) if finished else None for finished in finishes]

    def export_kv(self, key: str, region: KvRegion) -> memoryview:
        return kv_transfer.read(self._sequences[key].space, region)

    def export_kv_parts(self, key: str, region: KvRegion) -> list[memoryview]:
        return kv_transfer.parts(self._sequences[key].space, region)

    def import_kv(self, key: str, region: KvRegion, payload: memoryview) -> None:
        kv_transfer.write(self._sequences[key].space, region, payload)

    def append(self, key: str, token_id: int) -> None:
        sequence = self._sequences[key]
        sequence.filled_tokens = sequence.prompt_tokens
        self._grown.append(sequence)
        sequence.append(token_id)

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        sequences = [self._sequences[key] for key in keys]
        sampled = self._next(sequences)
        _append(sequences, sampled)
        for sequence in sequences:
            sequence.filled_tokens = len(sequence.tokens) - 1
        return sampled

    @staticmethod
    def _place(device: str) -> torch.device:
        """Where to load to. Raises ConfigError for a `device` that this engine has no code for."""
        if device != "cpu":
            raise ConfigError(f"device {device} is not supported")
        return torch.device(device)

    @staticmethod
    def _native(cache: Path | None, threads: int) -> native.Kernels | None:
        """The native kernels, where the engine can use some."""
        return native.load(cache, threads=threads)

    @staticmethod
    def _kernels(_layout: KvLayout, native_library: native.Kernels | None) -> AnyKernels | None:
        """What stands in for torch calls between matrix products."""
        return native_library

    def _next(self, sequences: Sequence[EngineSequence]) -> list[SampledToken]:
        """Feed each sequence's last token, and draw its next one."""
        pieces = [one.piece(len(one.tokens) - 1, len(one.tokens), wants_logits=True) for one in sequences]
        return self._forward(pieces, sequences, None)

    def _forward(
        self, pieces: Sequence[Piece], sampled: Sequence[EngineSequence], on_layer: OnLayer | None
    ) -> list[SampledToken]:
        """One forward pass over `pieces`; those of the sequences in `sampled` want logits, and get their next token."""
        with torch.inference_mode():
            logits = self._runner.logits(pack(pieces, self._runner.row_rule, self._device, on_layer or tell_nobody))
            return sample(logits, [sequence.sampler for sequence in sampled])

    def _check(self, sequence: SequenceSpec) -> None:
        prompt, spec = sequence.prompt_ids, self._spec
        if not prompt:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if min(prompt) < 0 or max(prompt) >= spec.vocab_size:
            raise InvalidRequest(f"token ids must be below {spec.vocab_size}", param="prompt")
        if sequence.capacity_tokens > spec.context_tokens:
            raise ContextExceeded(f"{sequence.capacity_tokens} tokens exceed the context of {spec.context_tokens}")
        if sequence.capacity_tokens < len(prompt):
            raise InvalidRequest(f"a capacity of {sequence.capacity_tokens} does not hold {len(prompt)} tokens")


def _append(sequences: Sequence[EngineSequence], tokens: Sequence[SampledToken]) -> None:
    for sequence, token in zip(sequences, tokens, strict=True):
        sequence.append(token.token_id)
