"""Prompts that begin alike, on the torch engine: the same bits as without a prefix cache, whoever filled it."""

from __future__ import annotations

import itertools

import pytest
from tiny_models import kv_of, load_engine, open_prompt, random_prompts, save_tiny

from shared.core import KvRegion, SampledToken, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.torch_engine import TorchEngine

BLOCK = 64
WITH_LOGPROBS = SamplingParams(temperature=0.0, ignore_eos=True, logprobs=20)
CASES = list(itertools.product(("llama", "qwen3", "gemma2"), ("float32", "bfloat16"), (True, False)))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchEngine, ...]:
    """Two with a prefix cache, one without."""
    architecture, dtype, native = request.param
    folder = save_tiny(architecture, tmp_path_factory.mktemp("model"), max_position_embeddings=1024)
    return tuple(load_engine(folder, dtype, native_kernels=native, prefix_cache=keep) for keep in (True, True, False))


def generate(
    engine: TorchEngine, prompt: list[int], steps: int, salt: str = ""
) -> tuple[int, list[SampledToken], bytes]:
    """Cached tokens, tokens, and the whole cache of one generation."""
    cached = engine.open(
        SequenceSpec(
            key="s",
            prompt_ids=prompt,
            sampling=WITH_LOGPROBS,
            capacity_tokens=len(prompt) + steps,
            cache_salt=salt,
        )
    )
    (first,) = engine.prefill([PrefillSlice("s", cached, len(prompt))])
    assert first is not None
    tokens = [first, *(engine.step(["s"])[0] for _ in range(steps - 1))]
    kv = kv_of(engine, "s", len(prompt) + steps - 1)
    engine.close("s")
    return cached, tokens, kv


def test_turns_of_a_chat_have_the_bits_of_prompts_computed_whole(engines: tuple[TorchEngine, ...]) -> None:
    """Blocks come from prefill and from decode steps; a turn ends anywhere in a block."""
    keeping, _, plain = engines
    (chat,) = random_prompts([150])
    known = 0
    for turn in range(3):
        cached, *got = generate(keeping, chat, 40)
        _, *expected = generate(plain, chat, 40)
        assert cached == known
        assert got == expected
        chat = [*chat, *(token.token_id for token in got[0]), *random_prompts([33], seed=turn)[0]]
        known = (len(chat) - 33 - 1) // BLOCK * BLOCK
    assert keeping.usage().free_bytes == keeping.usage().total_bytes


def test_what_was_imported_is_found_again(engines: tuple[TorchEngine, ...]) -> None:
    keeping, other, plain = engines
    (prompt,) = random_prompts([200], seed=8)
    _, expected, expected_kv = generate(plain, prompt, 10, "imported")
    spec = keeping.spec
    open_prompt(other, "from", prompt, 1, cache_salt="imported")
    (first,) = other.prefill([PrefillSlice("from", 0, 200)])
    assert first is not None
    open_prompt(keeping, "to", prompt, 10, cache_salt="imported")
    region = KvRegion(0, spec.layout.layers, 0, 200)
    keeping.import_kv("to", region, other.export_kv("from", region))
    assert keeping.open(_spec("early", prompt)) == 0
    keeping.append("to", first.token_id)
    assert keeping.open(_spec("beside", prompt)) == 192
    for key in ("early", "beside", "to"):
        keeping.close(key)
    other.close("from")
    cached, tokens, kv = generate(keeping, prompt, 10, "imported")
    assert (cached, tokens, kv) == (192, expected, expected_kv)


def test_cached_tokens_are_never_computed_again(engines: tuple[TorchEngine, ...]) -> None:
    keeping, _, _ = engines
    (prompt,) = random_prompts([130], seed=9)
    generate(keeping, prompt, 2)
    open_prompt(keeping, "s", prompt, 2)
    with pytest.raises(ValueError, match="cached"):
        keeping.prefill([PrefillSlice("s", 0, 130)])
    keeping.close("s")


def _spec(key: str, prompt: list[int]) -> SequenceSpec:
    return SequenceSpec(
        key=key, prompt_ids=prompt, sampling=WITH_LOGPROBS, capacity_tokens=len(prompt) + 1, cache_salt="imported"
    )
