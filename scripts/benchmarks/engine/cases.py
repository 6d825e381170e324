"""What is timed of the engine: its own public calls, sampling included, as the services make them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.core import KvRegion, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.torch_engine import TorchEngine

_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
_PROMPT_STRIDE = 37


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prompt of `tokens`, in one call or in slices of `slice_tokens`."""

    tokens: int
    slice_tokens: int

    @property
    def name(self) -> str:
        sliced = f"_by_{self.slice_tokens}" if self.slice_tokens < self.tokens else ""
        return f"prefill_{self.tokens}{sliced}"

    @property
    def floor_rows(self) -> tuple[int, int]:
        """Rows of a whole pass, and of its logits."""
        return self.tokens, 1

    def prepare(self, engine: TorchEngine) -> None:
        """Nothing: each run opens its own sequence."""

    def seconds(self, engine: TorchEngine, clock: Callable[[], float] = time.perf_counter) -> float:
        _open(engine, self.name, self.tokens, 1)
        start = clock()
        for first in range(0, self.tokens, self.slice_tokens):
            engine.prefill([PrefillSlice(self.name, first, min(first + self.slice_tokens, self.tokens))])
        spent = clock() - start
        engine.close(self.name)
        return spent

    def finish(self, engine: TorchEngine) -> None:
        """Nothing is left."""


@dataclass(frozen=True, slots=True)
class Decode:
    """Steps of `batch` sequences, each with a context of `context` tokens and a little more."""

    batch: int
    context: int
    steps: int

    @property
    def name(self) -> str:
        return f"decode_b{self.batch}"

    @property
    def keys(self) -> list[str]:
        return [f"{self.name}-{index}" for index in range(self.batch)]

    @property
    def floor_rows(self) -> tuple[int, int]:
        return self.batch, self.batch

    def prepare(self, engine: TorchEngine) -> None:
        """Compute one cache, and give it to every sequence."""
        region = KvRegion(0, engine.spec.layout.layers, 0, self.context)
        for index, key in enumerate(self.keys):
            _open(engine, key, self.context, self.steps + 1)
            if index == 0:
                (token,) = engine.prefill([PrefillSlice(key, 0, self.context)])
                assert token is not None
                continue
            engine.import_kv(key, region, engine.export_kv(self.keys[0], region))
            engine.append(key, token.token_id)

    def seconds(self, engine: TorchEngine, clock: Callable[[], float] = time.perf_counter) -> float:
        keys = self.keys
        start = clock()
        engine.step(keys)
        return clock() - start

    def finish(self, engine: TorchEngine) -> None:
        for key in self.keys:
            engine.close(key)


def _open(engine: TorchEngine, key: str, tokens: int, more: int) -> None:
    prompt = [(index * _PROMPT_STRIDE) % engine.spec.vocab_size for index in range(tokens)]
    engine.open(SequenceSpec(key=key, prompt_ids=prompt, sampling=_GREEDY, capacity_tokens=tokens + more))
