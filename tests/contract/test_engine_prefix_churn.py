"""Beginnings shared by many sequences: calls fail, imports are given up, memory is short; tokens stay the same."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
import torch
from tiny_models import prefill_in, save_tiny

from shared.core import KvRegion, SampledToken, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.kv_memory import BLOCK_TOKENS
from shared.engine.packed import PackedBatch
from shared.engine.runner import Runner
from shared.engine.torch_engine import TorchEngine
from shared.errors import KvExhausted
from shared.runtime.engine_thread import EngineThread

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
SESSIONS = 40
BLOCKS = 24

pytestmark = pytest.mark.timeout(120)


class Failing:
    """A runner that writes its pass's KV, and then sometimes raises."""

    def __init__(self, runner: Runner, chance: random.Random) -> None:
        self._runner = runner
        self._chance = chance
        self.row_rule = runner.row_rule
        self.own_products = runner.own_products
        self.failed = 0

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        logits = self._runner.logits(batch)
        if self._chance.random() < 0.1:
            self.failed += 1
            raise ArithmeticError("made to fail")
        return logits


class Phase:
    """An engine whose calls fail, on its own thread."""

    def __init__(self, engine: TorchEngine, seed: int) -> None:
        self.engine = engine
        self.failing = Failing(engine._runner, random.Random(seed))
        engine._runner = self.failing
        self._thread = EngineThread("engine")

    async def prefill(self, part: PrefillSlice) -> SampledToken | None:
        while True:
            try:
                return (await self._thread.call(self.engine.prefill, [part]))[0]
            except ArithmeticError:
                continue

    async def step(self, key: str) -> int:
        while True:
            try:
                return (await self._thread.call(self.engine.step, [key]))[0].token_id
            except ArithmeticError:
                continue

    def close(self) -> None:
        self._thread.close()


class Pair:
    """Prefill and decode, and what goes from one to the other."""

    def __init__(self, prefill: Phase, decode: Phase, seed: int) -> None:
        self._from, self._to = prefill, decode
        self._chance = random.Random(seed)
        self._freed = asyncio.Event()
        self.cached_tokens = 0

    async def generate(self, key: str, prompt: list[int], tokens: int) -> list[int]:
        while True:
            cached = await self._opened(key, prompt, tokens)
            first = await self._computed(key, prompt, cached[0])
            if self._chance.random() < 0.2:
                self._hand_over(key, cached[1], len(prompt) - 1)
                self._close(key)
                continue
            self._hand_over(key, cached[1], len(prompt))
            self._to.engine.append(key, first)
            answer = [first, *[await self._to.step(key) for _ in range(tokens - 1)]]
            self._close(key)
            return answer

    async def _opened(self, key: str, prompt: list[int], tokens: int) -> tuple[int, int]:
        """How much each of the two has of the prompt, once both have room."""
        room = len(prompt) + tokens
        spec = SequenceSpec(key=key, prompt_ids=prompt, sampling=GREEDY, capacity_tokens=room)
        while True:
            try:
                cached = self._from.engine.open(spec), self._to.engine.open(spec)
            except KvExhausted:
                self._from.engine.close(key)
                self._freed.clear()
                await self._freed.wait()
            else:
                self.cached_tokens += sum(cached)
                return cached

    async def _computed(self, key: str, prompt: list[int], start: int) -> int:
        token = None
        while start < len(prompt):
            stop = min(len(prompt), start + self._chance.randrange(1, 150))
            token = await self._from.prefill(PrefillSlice(key, start, stop))
            start = stop
        assert token is not None
        return token.token_id

    def _hand_over(self, key: str, start: int, stop: int) -> None:
        layers = self._from.engine.spec.layout.layers
        for token in range(start, stop, 50):
            region = KvRegion(0, layers, token, min(token + 50, stop))
            payload = b"".join(self._from.engine.export_kv_parts(key, region))
            self._to.engine.import_kv(key, region, memoryview(payload))

    def _close(self, key: str) -> None:
        self._from.engine.close(key)
        self._to.engine.close(key)
        self._freed.set()


def load(folder: Path, dtype: str, blocks: int, *, prefix_cache: bool) -> TorchEngine:
    whole = TorchEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=16 << 20).spec.layout.token_bytes
    kv_bytes = blocks * BLOCK_TOKENS * whole
    return TorchEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=kv_bytes, prefix_cache=prefix_cache)


def alone(engine: TorchEngine, prompt: list[int], tokens: int) -> list[int]:
    engine.open(SequenceSpec(key="a", prompt_ids=prompt, sampling=GREEDY, capacity_tokens=len(prompt) + tokens))
    answer = [prefill_in(engine, "a", [0, len(prompt)])]
    answer += [engine.step(["a"])[0].token_id for _ in range(tokens - 1)]
    engine.close("a")
    return answer


def wanted(chance: random.Random) -> list[tuple[list[int], int]]:
    """Prompts that leave one beginning somewhere, and how many tokens each shall get."""
    beginning = [chance.randrange(100) for _ in range(400)]
    ends = [[chance.randrange(100) for _ in range(chance.randrange(1, 80))] for _ in range(SESSIONS)]
    return [(beginning[: chance.randrange(1, 400)] + end, chance.randrange(2, 40)) for end in ends]


@pytest.mark.parametrize(("dtype", "seed"), [("float32", 1), ("bfloat16", 2)])
async def test_who_shares_a_beginning_changes_no_token(tmp_path: Path, dtype: str, seed: int) -> None:
    folder = save_tiny("llama", tmp_path, max_position_embeddings=1024)
    phases = [Phase(load(folder, dtype, BLOCKS, prefix_cache=True), seed + number) for number in range(2)]
    pair = Pair(*phases, seed)
    sessions = wanted(random.Random(seed))
    answers = await asyncio.gather(
        *(pair.generate(f"s{number}", prompt, tokens) for number, (prompt, tokens) in enumerate(sessions))
    )
    for phase in phases:
        phase.close()
        assert phase.failing.failed
        assert phase.engine.usage().free_bytes == phase.engine.usage().total_bytes
    assert pair.cached_tokens > SESSIONS * BLOCK_TOKENS
    plain = load(folder, dtype, BLOCKS, prefix_cache=False)
    assert answers == [alone(plain, prompt, tokens) for prompt, tokens in sessions]
