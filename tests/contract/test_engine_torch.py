"""The torch engine's side of the contract: reservation, refusals, isolation, and memory at rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import GREEDY, VOCAB, kv_of, load_engine, open_prompt, prefill_in, random_prompts, save_tiny

from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.torch_engine import TorchEngine
from shared.errors import BatonError, ConfigError, ContextExceeded, InvalidRequest, KvExhausted, UnsupportedModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> TorchEngine:
    return load_engine(folder)


@pytest.fixture
def engine(loaded: TorchEngine) -> Iterator[TorchEngine]:
    yield loaded
    for key in ("a", "b"):
        loaded.close(key)
    assert loaded.usage().free_bytes == loaded.usage().total_bytes


def test_spec_tells_the_model(engine: TorchEngine) -> None:
    spec = engine.spec
    assert (spec.name, spec.vocab_size, spec.context_tokens, spec.eos_token_ids) == ("tiny", VOCAB, 256, ())
    assert (spec.layout.layers, spec.layout.kv_heads, spec.layout.head_dim) == (3, 2, 16)


def test_both_dtypes_have_one_fingerprint(engine: TorchEngine, folder: Path) -> None:
    assert load_engine(folder, "bfloat16").spec.fingerprint == engine.spec.fingerprint


def test_warm_up_leaves_nothing(engine: TorchEngine) -> None:
    engine.warm_up()
    assert engine.usage().free_bytes == engine.usage().total_bytes


@pytest.mark.parametrize(
    ("prompt", "capacity", "error"),
    [
        ([], 8, InvalidRequest),
        ([1, VOCAB], 8, InvalidRequest),
        ([-1], 8, InvalidRequest),
        ([1, 2, 3], 2, InvalidRequest),
        ([1], 257, ContextExceeded),
    ],
)
def test_refused_sequences_hold_nothing(
    engine: TorchEngine, prompt: list[int], capacity: int, error: type[BatonError]
) -> None:
    with pytest.raises(error):
        engine.open(SequenceSpec(key="a", prompt_ids=prompt, sampling=GREEDY, capacity_tokens=capacity))
    assert engine.usage().free_bytes == engine.usage().total_bytes


def test_exhausted_memory_refuses_and_recovers(engine: TorchEngine) -> None:
    fitting = engine.usage().total_bytes // (256 * engine.spec.layout.token_bytes)
    keys = [f"k{index}" for index in range(fitting)]
    for key in keys:
        open_prompt(engine, key, [1, 2], 254)
    with pytest.raises(KvExhausted):
        open_prompt(engine, "a", [1, 2], 254)
    for key in keys:
        engine.close(key)
    open_prompt(engine, "a", [1, 2], 254)


def test_closing_an_unknown_key_does_nothing(engine: TorchEngine) -> None:
    engine.close("never")


def test_neighbours_keep_their_cache(engine: TorchEngine) -> None:
    first, second = random_prompts([70, 40])
    open_prompt(engine, "a", first, 20)
    open_prompt(engine, "b", second, 20)
    prefill_in(engine, "a", [0, 70])
    before = kv_of(engine, "a", 70)
    prefill_in(engine, "b", [0, 40])
    for _ in range(19):
        engine.step(["b"])
    assert kv_of(engine, "a", 70) == before


def test_only_the_slice_that_ends_the_prompt_yields_a_token(engine: TorchEngine) -> None:
    first, second = random_prompts([30, 20])
    open_prompt(engine, "a", first, 4)
    open_prompt(engine, "b", second, 4)
    tokens = engine.prefill([PrefillSlice("a", 0, 10), PrefillSlice("b", 0, 20)])
    assert [token is None for token in tokens] == [True, False]


def test_a_step_beyond_the_capacity_is_refused(engine: TorchEngine) -> None:
    (prompt,) = random_prompts([64])
    open_prompt(engine, "a", prompt, 0)
    prefill_in(engine, "a", [0, 64])
    with pytest.raises(ValueError, match="capacity"):
        engine.step(["a"])


@pytest.mark.parametrize("setting", [{"dtype": "float16"}, {"device": "tpu"}])
def test_unknown_dtype_or_device(folder: Path, setting: dict[str, str]) -> None:
    settings = {"dtype": "float32", "device": "cpu", **setting}
    with pytest.raises(ConfigError):
        TorchEngine.load(folder, name="tiny", kv_bytes=1 << 20, **settings)  # type: ignore[arg-type]


def test_code_in_the_model_folder_is_never_run(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mystery", "auto_map": {"AutoConfig": "evil.Config"}'))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsupportedModel):
        load_engine(folder)
