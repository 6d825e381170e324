"""One prompt, decoded from an exact and from an int8 cache side by side, as long as both say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import torch

from benchmarks.handoff_quality.pair import PREFILL, hand_over
from shared.core import KvEncoding, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.packed import PackedBatch
from shared.engine.runner import Runner
from shared.engine.torch_engine import TorchEngine

SIDES = (KvEncoding.EXACT, KvEncoding.INT8)
_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Logit errors of every step whose history both sides share, and whether the last of them chose another token.

    `spread` is the standard deviation of the exact logits, the scale of the errors.
    """

    prompt_tokens: int
    exact_bytes: int
    int8_bytes: int
    mean_errors: tuple[float, ...]
    max_errors: tuple[float, ...]
    spreads: tuple[float, ...]
    agreed: int

    @property
    def steps(self) -> int:
        return len(self.mean_errors)


class Tap:
    """A runner whose last logits can be looked at."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.row_rule = runner.row_rule
        self.last = torch.empty(0)

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        self.last = self._runner.logits(batch)
        return self.last


def compare(engine: TorchEngine, tap: Tap, prompt_ids: Sequence[int], steps: int) -> Compared:
    """`engine` runs on `tap`."""
    keys = ["prefill", *SIDES]
    for key in keys:
        capacity = len(prompt_ids) + steps + 1
        engine.open(SequenceSpec(key=key, prompt_ids=prompt_ids, sampling=_GREEDY, capacity_tokens=capacity))
    try:
        return _compare(engine, tap, prompt_ids, steps)
    finally:
        for key in keys:
            engine.close(key)


def _compare(engine: TorchEngine, tap: Tap, prompt_ids: Sequence[int], steps: int) -> Compared:
    stops = [*range(PREFILL.chunk_tokens, len(prompt_ids), PREFILL.chunk_tokens), len(prompt_ids)]
    for start, stop in pairwise([0, *stops]):
        (token,) = engine.prefill([PrefillSlice("prefill", start, stop)])
    assert token is not None
    sizes = [asyncio.run(hand_over(engine, "prefill", side, stops, side)) for side in SIDES]
    for side in SIDES:
        engine.append(side, token.token_id)
    means, maxima, spreads, agreed = [], [], [], 0
    for _ in range(steps):
        exact, int8 = engine.step(list(SIDES))
        logits = tap.last[:2].float()
        errors = (logits[0] - logits[1]).abs()
        means.append(float(errors.mean()))
        maxima.append(float(errors.max()))
        spreads.append(float(logits[0].std()))
        if exact.token_id != int8.token_id:
            break
        agreed += 1
    return Compared(
        prompt_tokens=len(prompt_ids),
        exact_bytes=sizes[0],
        int8_bytes=sizes[1],
        mean_errors=tuple(means),
        max_errors=tuple(maxima),
        spreads=tuple(spreads),
        agreed=agreed,
    )
