"""Batch invariance bit by bit: what a sequence's cache and logits depend on, and what they do not.

Logits are compared through the log-probabilities of the 20 most likely tokens, caches through their exported bytes.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from tiny_models import kv_of, load_engine, open_prompt, prefill_in, random_cuts, random_prompts, save_tiny

from shared.core import KvRegion, SampledToken, SamplingParams
from shared.engine.contract import PrefillSlice
from shared.engine.native import Kernels
from shared.engine.torch_engine import TorchEngine

WITH_LOGPROBS = SamplingParams(temperature=0.0, ignore_eos=True, logprobs=20)
STEPS = 40
SHAPES = {
    "llama": {"hidden_size": 192, "intermediate_size": 2048, "num_attention_heads": 3, "num_key_value_heads": 3},
    "llama-gqa": {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 12, "num_key_value_heads": 4},
    "gemma2": {},
    "gpt2": {},
    "gpt_neox": {},
    "qwen3": {},
}


THREADS = (1, 2, 3)
KINDS = [
    *itertools.product(SHAPES, ("float32", "bfloat16"), ("native", "torch"), THREADS),
    *itertools.product(("llama",), ("bfloat16",), ("library",), THREADS),
]


def loaded(shape: str, dtype: str, kind: str, threads: int, folder: Path) -> TorchEngine:
    sizes = {"max_position_embeddings": 1024, **SHAPES[shape]}
    with pytest.MonkeyPatch.context() as patch:
        if kind == "library":
            patch.setattr(Kernels, "multiplies", lambda *_: False)
        model = save_tiny(shape.split("-", maxsplit=1)[0], folder, **sizes)
        return load_engine(model, dtype, native_kernels=kind != "torch", threads=threads)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    """With native kernels, without, or with them but the library's products, as on processors without bf16 ones."""
    return loaded(*request.param, tmp_path_factory.mktemp("model"))


def alone(engine: TorchEngine, prompt: list[int]) -> tuple[list[SampledToken], bytes]:
    """The tokens of `prompt` and its whole cache, computed with nobody beside it."""
    open_prompt(engine, "alone", prompt, STEPS, sampling=WITH_LOGPROBS)
    first = engine.prefill([PrefillSlice("alone", 0, len(prompt))])[0]
    assert first is not None
    tokens = [first] + [engine.step(["alone"])[0] for _ in range(STEPS - 1)]
    kv = kv_of(engine, "alone", len(prompt) + STEPS - 1)
    engine.close("alone")
    return tokens, kv


@pytest.mark.parametrize("length", [5, 64, 129, 700])
def test_cache_does_not_depend_on_the_cuts(engine: TorchEngine, length: int) -> None:
    (prompt,) = random_prompts([length])
    rng = random.Random(5)
    caches = set()
    for cuts in ([0, length], [0, length - 1, length], [0, 1, length], *(random_cuts(length, rng) for _ in range(3))):
        open_prompt(engine, "s", prompt, 1)
        prefill_in(engine, "s", cuts)
        caches.add(kv_of(engine, "s", length))
        engine.close("s")
    assert len(caches) == 1


@pytest.mark.parametrize("turn", [0, 7])
def test_tokens_do_not_depend_on_neighbours(engine: TorchEngine, turn: int) -> None:
    """Neither the first row's nor, once the prompts have taken turns, the last one's."""
    prompts = random_prompts([30, 1, 7, 64, 100, 150, 3, 63])
    expected, expected_kv = alone(engine, prompts[0])
    for count in (2, 3, 5, 6, 7, 8):
        keys = [str(index) for index in range(count)]
        place = min(turn, count - 1)
        order = [*prompts[1 : place + 1], prompts[0], *prompts[place + 1 : count]]
        for key, prompt in zip(keys, order, strict=True):
            open_prompt(engine, key, prompt, STEPS, sampling=WITH_LOGPROBS)
        slices = [PrefillSlice(key, 0, len(prompt)) for key, prompt in zip(keys, order, strict=True)]
        tokens = [engine.prefill(slices)[place]] + [engine.step(keys)[place] for _ in range(STEPS - 1)]
        kv = kv_of(engine, keys[place], 30 + STEPS - 1)
        for key in keys:
            engine.close(key)
        assert tokens == expected
        assert kv == expected_kv


def test_own_products_have_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    (prompt,) = random_prompts([700])
    engines = [loaded("llama", "bfloat16", "native", threads, tmp_path / str(threads)) for threads in THREADS]
    if not engines[0].spec.arithmetic.count("products"):
        pytest.skip("this processor has no bf16 products")
    assert len({engine.spec.arithmetic for engine in engines}) == 1
    expected = alone(engines[0], prompt)
    assert all(alone(engine, prompt) == expected for engine in engines[1:])


def test_torchs_products_name_their_threads(tmp_path: Path) -> None:
    """Between numbers of threads they may round differently."""
    names = {loaded("llama", "float32", "native", count, tmp_path / str(count)).spec.arithmetic for count in THREADS}
    assert len(names) == len(THREADS)


def test_prefill_computes_what_decode_computed(engine: TorchEngine) -> None:
    (prompt,) = random_prompts([30])
    tokens, kv = alone(engine, prompt)
    known = [*prompt, *(token.token_id for token in tokens[:-1])]
    open_prompt(engine, "again", known, 1, sampling=WITH_LOGPROBS, emitted=STEPS - 1)
    last = engine.prefill([PrefillSlice("again", 0, len(known))])
    again = kv_of(engine, "again", len(known))
    engine.close("again")
    assert last == tokens[-1:]
    assert again == kv


def test_an_imported_cache_is_as_good_as_a_computed_one(engine: TorchEngine) -> None:
    (prompt,) = random_prompts([130])
    expected, expected_kv = alone(engine, prompt)
    open_prompt(engine, "from", prompt, 1)
    first = prefill_in(engine, "from", [0, 130])
    open_prompt(engine, "to", prompt, STEPS, sampling=WITH_LOGPROBS)
    region = KvRegion(0, engine.spec.layout.layers, 0, 130)
    engine.import_kv("to", region, engine.export_kv("from", region))
    engine.append("to", first)
    engine.close("from")
    tokens = [engine.step(["to"])[0] for _ in range(STEPS - 1)]
    kv = kv_of(engine, "to", 130 + STEPS - 1)
    engine.close("to")
    assert tokens == expected[1:]
    assert kv == expected_kv


def test_what_the_memory_held_before_does_not_matter(engine: TorchEngine, tmp_path: Path) -> None:
    (prompt,) = random_prompts([70])
    expected = alone(engine, prompt)
    tokens = 300
    open_prompt(engine, "poison", prompt, tokens - 70)
    region = KvRegion(0, engine.spec.layout.layers, 0, tokens)
    nan = memoryview(b"\xff" * region.size_bytes(engine.spec.layout))
    engine.import_kv("poison", region, nan)
    engine.close("poison")
    assert alone(engine, prompt) == expected
