"""KV out of a GPU and into another memory: bytes, tokens, layers told while the rest is computed, other threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_models import kv_of, load_engine, open_prompt, prefill_in, random_prompts

from shared.core import KvRegion
from shared.engine.contract import PrefillSlice
from shared.engine.cuda.engine import CudaEngine
from shared.engine.torch_engine import TorchEngine

TOKENS = 12
(PROMPT,) = random_prompts([300])


def continued(engine: TorchEngine, key: str, first: int) -> list[int]:
    engine.append(key, first)
    return [first, *(engine.step([key])[0].token_id for _ in range(TOKENS - 1))]


def copied(source: TorchEngine, target: TorchEngine, tokens: int) -> None:
    """`from` of one into `to` of the other, in regions that respect no block."""
    layers = source.spec.layout.layers
    for start, stop in ((0, 70), (70, 71), (71, 256), (256, tokens)):
        for layer in range(layers):
            region = KvRegion(layer, layer + 1, start, stop)
            payload = b"".join(source.export_kv_parts("from", region))
            target.import_kv("to", region, memoryview(payload))


def test_between_gpus_and_cpus(engine: CudaEngine, folder: Path, dtype: str) -> None:
    plain = load_engine(folder, dtype)
    open_prompt(plain, "whole", PROMPT, TOKENS)
    first = prefill_in(plain, "whole", [0, 300])
    expected = [first, *(plain.step(["whole"])[0].token_id for _ in range(TOKENS - 1))]
    for source, target in ((engine, engine), (engine, plain), (plain, engine)):
        open_prompt(source, "from", PROMPT, 1)
        token = prefill_in(source, "from", [0, 300])
        open_prompt(target, "to", PROMPT, TOKENS)
        copied(source, target, 300)
        assert kv_of(target, "to", 300) == kv_of(source, "from", 300)
        tokens = continued(target, "to", token)
        if dtype == "float32":
            assert tokens == expected
        source.close("from")
        target.close("to")
    plain.close("whole")
    assert engine.usage().free_bytes == engine.usage().total_bytes


def test_layers_told_of_are_there(engine: CudaEngine) -> None:
    """Exported on another thread the moment they are told, while later layers are computed."""
    layers = engine.spec.layout.layers
    told: list[int] = []
    with ThreadPoolExecutor(1) as thread:
        early = []

        def on_layer(done: int) -> None:
            told.append(done)
            early.append(thread.submit(lambda: bytes(engine.export_kv("s", KvRegion(done - 1, done, 0, 300)))))

        open_prompt(engine, "s", PROMPT, 1)
        engine.prefill([PrefillSlice("s", 0, 300)], on_layer)
        late = [bytes(engine.export_kv("s", KvRegion(layer, layer + 1, 0, 300))) for layer in range(layers)]
        assert [one.result() for one in early] == late
    engine.close("s")
    assert told == list(range(1, layers + 1))


@pytest.mark.timeout(60)
def test_steps_and_transfers_beside_each_other(engine: CudaEngine) -> None:
    """A batch decodes on one thread while another sequence's KV goes out and comes in on a second."""
    prompts = random_prompts([40, 90, 130], seed=9)
    keys = ["0", "1", "2"]

    def batch() -> list[list[int]]:
        for key, prompt in zip(keys, prompts, strict=True):
            open_prompt(engine, key, prompt, 201)
            prefill_in(engine, key, [0, len(prompt)])
        steps = [[one.token_id for one in engine.step(keys)] for _ in range(200)]
        for key in keys:
            engine.close(key)
        return steps

    open_prompt(engine, "from", PROMPT, 1)
    prefill_in(engine, "from", [0, 300])
    alone, kv = batch(), kv_of(engine, "from", 300)
    done = threading.Event()

    def transfer() -> int:
        rounds = 0
        while not done.is_set():
            copied(engine, engine, 300)
            rounds += kv_of(engine, "to", 300) == kv
        return rounds

    open_prompt(engine, "to", PROMPT, 1)
    with ThreadPoolExecutor(1) as thread:
        rounds = thread.submit(transfer)
        try:
            assert batch() == alone
        finally:
            done.set()
        assert rounds.result() > 0
    engine.close("from")
    engine.close("to")
