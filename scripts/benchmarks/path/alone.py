"""The engine alone: prefill and steps of one sequence, in a process of its own, on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import msgspec

from benchmarks.path.measured import Measured
from shared.core import SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.torch_engine import TorchEngine
from shared.models.catalogue import DEFAULT_MODEL
from shared.models.store import resolve
from shared.runtime.settings import cache_folder, process_environment

SLICE_TOKENS = 256
KV_BYTES = 256 << 20
_GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


class Work(msgspec.Struct, frozen=True):
    """What is asked of both: so many tokens after this prompt."""

    prompt_ids: tuple[int, ...]
    max_tokens: int


def serve(orders: Connection, core: int) -> None:
    """Body of the process: do the `Work` that comes, and say how long it took, until None comes."""
    os.sched_setaffinity(0, {core})
    cache = cache_folder(process_environment().get("BATON_CACHE_DIR", ""))
    engine = TorchEngine.load(
        resolve(DEFAULT_MODEL, cache).path, name=DEFAULT_MODEL, dtype="bfloat16", kv_bytes=KV_BYTES, cache=cache
    )
    engine.warm_up()
    orders.send(None)
    while (work := orders.recv()) is not None:
        orders.send(_measure(engine, work))


def _measure(engine: TorchEngine, work: Work) -> Measured:
    tokens = len(work.prompt_ids)
    engine.open(
        SequenceSpec(key="s", prompt_ids=work.prompt_ids, sampling=_GREEDY, capacity_tokens=tokens + work.max_tokens)
    )
    moments = [time.perf_counter()]
    for start in range(0, tokens, SLICE_TOKENS):
        engine.prefill([PrefillSlice("s", start, min(start + SLICE_TOKENS, tokens))])
    moments.append(time.perf_counter())
    for _ in range(work.max_tokens - 1):
        engine.step(["s"])
        moments.append(time.perf_counter())
    engine.close("s")
    return Measured.of(moments)


def prompt(tokens: int, vocab_size: int, seed: int) -> Sequence[int]:
    """Token ids that differ with `seed`."""
    return [(seed * 7919 + index * 37) % vocab_size for index in range(tokens)]
