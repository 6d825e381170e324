"""The fused runner against the general one and transformers' own `generate`, family by family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from ties import assert_same_or_tied
from tiny_models import (
    load_reference,
    open_prompt,
    prefill_in,
    random_prompts,
    reference_tokens,
    save_tiny,
)

from shared.engine.runner_kind import RunnerKind
from shared.engine.torch_engine import TorchEngine

TOKENS = 20
PROMPTS = random_prompts([1, 2, 15, 17, 64, 130])
NO_WINDOW = {"sliding_window": None, "use_sliding_window": False}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-tied": ("llama", {}),
    "llama-untied": ("llama", {"tie_word_embeddings": False}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-odd-widths": (
        "llama",
        {
            "hidden_size": 72,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 24,
            "intermediate_size": 88,
        },
    ),
    "llama-rope-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-rope-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window-beyond-the-context": ("mistral", {"sliding_window": 4096}),
    "qwen2": ("qwen2", NO_WINDOW),
    "qwen3": ("qwen3", {}),
    "smollm3": ("smollm3", {}),
}


PATHS = {
    "fused-native": {"runner": RunnerKind.FUSED},
    "fused-torch": {"runner": RunnerKind.FUSED, "native_kernels": False},
    "general-native": {"runner": RunnerKind.GENERAL},
    "general-torch": {"runner": RunnerKind.GENERAL, "native_kernels": False},
}


def load(folder: Path, path: str, dtype: str = "float32") -> TorchEngine:
    return TorchEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=16 << 20, **PATHS[path])  # type: ignore[arg-type]


def generate(engine: TorchEngine, prompt: Sequence[int]) -> list[int]:
    open_prompt(engine, "s", prompt, TOKENS)
    tokens = [prefill_in(engine, "s", [0, len(prompt)])]
    tokens += [engine.step(["s"])[0].token_id for _ in range(TOKENS - 1)]
    engine.close("s")
    return tokens


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    architecture, changes = FAMILIES[request.param]
    folder = save_tiny(architecture, tmp_path_factory.mktemp("model"), **changes)
    _randomize_vectors(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    reference = load_reference(folder)
    return [reference_tokens(reference, prompt, TOKENS) for prompt in PROMPTS]


def _randomize_vectors(folder: Path) -> None:
    """transformers starts biases at zero and norms at one."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    vectors = {
        name: one + 0.3 * torch.randn(one.shape, generator=generator) for name, one in tensors.items() if one.dim() == 1
    }
    save_file(tensors | vectors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("path", PATHS)
def test_float32_equals_generate(folder: Path, expected: list[list[int]], path: str) -> None:
    engine = load(folder, path)
    assert [generate(engine, prompt) for prompt in PROMPTS] == expected


@pytest.mark.parametrize("path", ["fused-native", "fused-torch"])
def test_bf16_equals_generate_or_ties(folder: Path, path: str) -> None:
    engine, reference = load(folder, path, "bfloat16"), load_reference(folder, torch.bfloat16)
    exact = load_reference(folder, torch.bfloat16).float()
    for prompt in PROMPTS:
        assert_same_or_tied(
            prompt, generate(engine, prompt), reference_tokens(reference, prompt, TOKENS), reference, exact
        )


def test_what_an_engine_serves_does_not_depend_on_the_path(folder: Path) -> None:
    specs = [msgspec.structs.replace(load(folder, path).spec, arithmetic="") for path in PATHS]
    assert specs == specs[:1] * len(specs)
