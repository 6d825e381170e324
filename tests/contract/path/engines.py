"""Fake engines for tests of the path: small ones, and one whose calls the test holds back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from shared.core import ModelSpec, SampledToken
from shared.engine.contract import OnLayer, PrefillSlice
from shared.engine.fake import FakeEngine, FakePace, fake_spec

VOCAB_SIZE = 256
MODEL = "fake"


def spec(eos_token_ids: tuple[int, ...] = ()) -> ModelSpec:
    return fake_spec(MODEL, vocab_size=VOCAB_SIZE, eos_token_ids=eos_token_ids)


def engine(
    kv_tokens: int = 16384, eos_token_ids: tuple[int, ...] = (), prefill_token_s: float = 0.0, step_s: float = 0.0
) -> FakeEngine:
    """A fake engine with room for `kv_tokens`."""
    served = spec(eos_token_ids)
    return FakeEngine(
        served, kv_tokens * served.layout.token_bytes, FakePace(prefill_token_s=prefill_token_s, step_s=step_s)
    )


def prefix_engine(kv_tokens: int = 16384) -> FakeEngine:
    """One that finds beginnings of prompts again."""
    served = spec()
    return FakeEngine(served, kv_tokens * served.layout.token_bytes, block_tokens=16, prefix_cache=True)


class Gate:
    """Holds back calls on another thread until opened; tells when one has come, and whether one is held."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self.held = False

    def shut(self) -> None:
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        """Called on the other thread."""
        self._loop.call_soon_threadsafe(self.reached.set)
        self.held = not self._open.is_set()
        assert self._open.wait(timeout=30), "the test forgot to open the gate"
        self.held = False


class GatedEngine(FakeEngine):
    """Waits at its gates before it computes, or from one of its steps on. Counts its steps."""

    def __init__(
        self, kv_tokens: int = 16384, eos_token_ids: tuple[int, ...] = (), *, prefix_cache: bool = False
    ) -> None:
        served = spec(eos_token_ids)
        super().__init__(
            served,
            kv_tokens * served.layout.token_bytes,
            block_tokens=16 if prefix_cache else 1,
            prefix_cache=prefix_cache,
        )
        self.prefill_gate = Gate()
        self.step_gate = Gate()
        self.steps = 0
        self.hold_at_step: int | None = None
        self.fail_next_step = False
        self.fail_next_prefill = False

    def prefill(self, slices: Sequence[PrefillSlice], on_layer: OnLayer | None = None) -> list[SampledToken | None]:
        self.prefill_gate.pass_through()
        if self.fail_next_prefill:
            self.fail_next_prefill = False
            raise ArithmeticError("made to fail")
        return super().prefill(slices, on_layer)

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        self.steps += 1
        if self.steps == self.hold_at_step:
            self.step_gate.shut()
        self.step_gate.pass_through()
        if self.fail_next_step:
            self.fail_next_step = False
            raise ArithmeticError("made to fail")
        return super().step(keys)
