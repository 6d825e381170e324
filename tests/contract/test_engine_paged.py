"""The CUDA engine's host code on a CPU, its kernels in plain torch: tokens, neighbours, hand-over, refusals.

What a GPU alone can show (streams, graphs, events) is in `tests/gpu`.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import torch
from paged_engine import PagedEngine
from tiny_models import (
    GREEDY,
    kv_of,
    load_engine,
    load_reference,
    open_prompt,
    prefill_in,
    random_cuts,
    random_prompts,
    reference_tokens,
    save_tiny,
)
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from shared.core import KvRegion, SampledToken, SamplingParams
from shared.engine.attention import AttentionKind
from shared.engine.checkpoint import read_checkpoint
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.cuda.engine import CudaEngine
from shared.engine.cuda.kernels import Rope
from shared.engine.cuda.pages import Pages
from shared.engine.cuda.step_inputs import StepInputs
from shared.engine.cuda.torch_kernels import TorchKernels
from shared.engine.kv_memory import KvMemory
from shared.engine.llama_runner import LlamaModel
from shared.engine.sampling import greedy
from shared.engine.torch_engine import TorchEngine
from shared.errors import ConfigError

TOKENS = 20
PROMPTS = random_prompts([1, 2, 40, 64, 90, 130])
ARCHITECTURES = ("llama", "qwen3", "smollm3", "gemma2", "mistral")


class Case:
    def __init__(self, architecture: str, folder: Path) -> None:
        self.folder = save_tiny(architecture, folder)
        self.engine = PagedEngine.load(self.folder, name="tiny", dtype="float32", kv_bytes=16 << 20)
        reference = load_reference(self.folder)
        self.expected = [reference_tokens(reference, prompt, TOKENS) for prompt in PROMPTS]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def test_tokens_are_those_of_transformers(case: Case) -> None:
    """Prompts cut at random, joining a batch one by one."""
    engine, rng = case.engine, random.Random(1)
    found: dict[str, list[int]] = {}
    for index, prompt in enumerate(PROMPTS):
        key = str(index)
        open_prompt(engine, key, prompt, TOKENS)
        found[key] = [prefill_in(engine, key, random_cuts(len(prompt), rng))]
        for other, token in zip(found, engine.step(list(found)), strict=True):
            found[other].append(token.token_id)
    while min(map(len, found.values())) < TOKENS:
        keys = [key for key in found if len(found[key]) < TOKENS]
        for key, token in zip(keys, engine.step(keys), strict=True):
            found[key].append(token.token_id)
    for key in found:
        engine.close(key)
    assert list(found.values()) == case.expected
    assert engine.usage().free_bytes == engine.usage().total_bytes


def test_what_goes_out_comes_in_again_here_and_on_a_cpu(case: Case) -> None:
    engine, prompt = case.engine, PROMPTS[5]
    open_prompt(engine, "from", prompt, 1)
    first = prefill_in(engine, "from", [0, len(prompt)])
    plain = load_engine(case.folder)
    layers = engine.spec.layout.layers
    for other in (engine, plain):
        open_prompt(other, "to", prompt, TOKENS)
        for start, stop in ((0, 70), (70, 71), (71, len(prompt))):
            for layer in range(layers):
                region = KvRegion(layer, layer + 1, start, stop)
                (part,) = engine.export_kv_parts("from", region)
                other.import_kv("to", region, part)
        other.append("to", first)
        tokens = [first, *(other.step(["to"])[0].token_id for _ in range(TOKENS - 1))]
        assert tokens == case.expected[5]
        assert kv_of(other, "to", len(prompt)) == kv_of(engine, "from", len(prompt))
        other.close("to")
    engine.close("from")


def test_a_prompt_s_beginning_is_found_again(case: Case) -> None:
    engine = PagedEngine.load(case.folder, name="tiny", dtype="float32", kv_bytes=16 << 20, prefix_cache=True)
    prompt = PROMPTS[5]
    for key, cached in (("first", 0), ("second", 128)):
        spec = SequenceSpec(key=key, prompt_ids=prompt, sampling=GREEDY, capacity_tokens=len(prompt) + TOKENS)
        assert engine.open(spec) == cached
        tokens = [prefill_in(engine, key, [cached, len(prompt)])]
        tokens += [engine.step([key])[0].token_id for _ in range(TOKENS - 1)]
        assert tokens == case.expected[5]
    engine.close("first")
    engine.close("second")


def test_layers_are_told_in_order(case: Case) -> None:
    engine, told = case.engine, []
    open_prompt(engine, "s", PROMPTS[2], 1)
    engine.prefill([PrefillSlice("s", 0, 40)], told.append)
    engine.close("s")
    assert told == list(range(1, engine.spec.layout.layers + 1))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[PagedEngine, TorchEngine]:
    folder = save_tiny("llama", tmp_path_factory.mktemp("llama"))
    paged = PagedEngine.load(folder, name="tiny", dtype="float32", kv_bytes=64 << 20)
    return paged, TorchEngine.load(folder, name="tiny", dtype="float32", kv_bytes=64 << 20)


MIXED = (
    SamplingParams(temperature=0.0, ignore_eos=True),
    SamplingParams(temperature=0.9, seed=5, ignore_eos=True),
    SamplingParams(temperature=0.0, ignore_eos=True, logprobs=3),
    SamplingParams(temperature=0.0, ignore_eos=True, repetition_penalty=1.3),
)


def run(engine: TorchEngine, count: int, choices: tuple[SamplingParams, ...]) -> list[list[int]]:
    """Tokens of `count` sequences, one of which leaves and one of which comes after some steps."""
    prompts = random_prompts([3 + 5 * index % 37 for index in range(count)])
    keys = [str(index) for index in range(count)]
    tokens: dict[str, list[SampledToken]] = {}
    for index, (key, prompt) in enumerate(zip(keys, prompts, strict=True)):
        open_prompt(engine, key, prompt, 12, sampling=choices[index % len(choices)])
        tokens[key] = [one for one in engine.prefill([PrefillSlice(key, 0, len(prompt))]) if one]
    for _, present in itertools.product(range(2), (keys, keys[1:] or keys, keys[::-1])):
        for key, token in zip(present, engine.step(present), strict=True):
            tokens[key].append(token)
    for key in keys:
        engine.close(key)
    return [[token.token_id for token in tokens[key]] for key in keys]


@pytest.mark.parametrize("count", [1, 3, 8, 64, 67])
@pytest.mark.parametrize("choices", [MIXED[:1], MIXED], ids=["greedy", "mixed"])
def test_batches_of_every_size_and_kind(
    llama: tuple[PagedEngine, TorchEngine], count: int, choices: tuple[SamplingParams, ...]
) -> None:
    paged, plain = llama
    assert run(paged, count, choices) == run(plain, count, choices)


def test_a_step_beyond_the_capacity_is_refused(llama: tuple[PagedEngine, TorchEngine]) -> None:
    paged, _ = llama
    prompt = random_prompts([63])[0]
    open_prompt(paged, "s", prompt, 1)
    prefill_in(paged, "s", [0, 63])
    paged.step(["s"])
    with pytest.raises(ValueError, match="capacity"):
        paged.step(["s"])
    paged.close("s")


@pytest.mark.parametrize("size", [-1, 1])
def test_bytes_of_the_wrong_length_are_refused(llama: tuple[PagedEngine, TorchEngine], size: int) -> None:
    paged, _ = llama
    open_prompt(paged, "s", [1, 2, 3], 1)
    region = KvRegion(0, 1, 0, 2)
    payload = bytes(region.size_bytes(paged.spec.layout) + size)
    with pytest.raises(ValueError, match="bytes"):
        paged.import_kv("s", region, memoryview(payload))
    paged.close("s")


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "tpu", "mps"])
def test_a_device_that_cannot_be_used_is_refused(tmp_path: Path, device: str) -> None:
    import torch

    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=device):
        CudaEngine.load(tmp_path, name="tiny", dtype="float32", kv_bytes=1 << 20, device=device)


def test_memory_that_does_not_fit_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate too much")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(ConfigError, match="1048576 bytes of KV memory does not fit"):
        PagedEngine.load(case.folder, name="tiny", dtype="float32", kv_bytes=1 << 20)


class NoKernels(TorchKernels):
    """Kernels of the right shapes that compute nothing."""

    def rope_store(self, kv: torch.Tensor, qkv: torch.Tensor, pages: Pages, rope: Rope) -> None:
        assert pages.decodes

    def attend(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, kind: AttentionKind) -> torch.Tensor:
        return torch.empty_like(query)


@pytest.mark.parametrize("size", [1, 64])
def test_a_step_asks_nothing_of_the_device(tmp_path: Path, size: int) -> None:
    """What a CUDA graph shall hold: from inputs to logits no tensor's content may decide anything on the host."""
    checkpoint = read_checkpoint(save_tiny("llama", tmp_path))
    model = LlamaModel.load(checkpoint, torch.float32, torch.device("cpu"))
    runner = model.runner(KvMemory(model.layout, 1 << 20, torch.device("cpu")), NoKernels())
    inputs = StepInputs(64, 4, torch.device("cpu"))
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
        logits = runner.logits(inputs.batch(size))
        drawn, _ = greedy(logits)
        with pytest.raises(DataDependentOutputException):
            drawn.tolist()
    assert logits.shape == (size, model.vocab_size)
