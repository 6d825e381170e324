"""Tokens of the CUDA engine: those of transformers on a CPU, on the fused path and the general one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from ties import assert_same_or_tied
from tiny_models import (
    load_reference,
    open_prompt,
    prefill_in,
    random_cuts,
    random_prompts,
    reference_tokens,
    save_tiny,
)

from shared.engine.cuda.engine import CudaEngine

TOKENS = 20
PROMPTS = random_prompts([1, 2, 40, 64, 90, 130, 200])


def generated(engine: CudaEngine) -> list[list[int]]:
    """Prompts cut at random, joining a batch one by one, each leaving when it is done."""
    rng, found = random.Random(1), dict[str, list[int]]()
    for index, prompt in enumerate(PROMPTS):
        key = str(index)
        open_prompt(engine, key, prompt, TOKENS)
        found[key] = [prefill_in(engine, key, random_cuts(len(prompt), rng))]
        step(engine, found)
    while any(len(tokens) < TOKENS for tokens in found.values()):
        step(engine, found)
    for key in found:
        engine.close(key)
    assert engine.usage().free_bytes == engine.usage().total_bytes
    return list(found.values())


def step(engine: CudaEngine, found: dict[str, list[int]]) -> None:
    keys = [key for key, tokens in found.items() if len(tokens) < TOKENS]
    for key, token in zip(keys, engine.step(keys), strict=True):
        found[key].append(token.token_id)


def check(engine: CudaEngine, folder: Path, dtype: str) -> None:
    exact = load_reference(folder)
    reference = exact if dtype == "float32" else load_reference(folder, torch.bfloat16)
    for prompt, ours in zip(PROMPTS, generated(engine), strict=True):
        theirs = reference_tokens(reference, prompt, TOKENS)
        if dtype == "float32":
            assert ours == theirs
        else:
            assert_same_or_tied(prompt, ours, theirs, reference, exact)


def test_fused_path_with_graphs(engine: CudaEngine, folder: Path, dtype: str) -> None:
    check(engine, folder, dtype)


def test_fused_path_without_graphs(eager: CudaEngine, folder: Path, dtype: str) -> None:
    check(eager, folder, dtype)


@pytest.mark.parametrize("architecture", ["qwen3", "smollm3"])
def test_other_families(architecture: str, dtype: str, tmp_path: Path) -> None:
    folder = save_tiny(architecture, tmp_path)
    engine = CudaEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=64 << 20, device="cuda")
    engine.warm_up()
    check(engine, folder, dtype)


@pytest.mark.parametrize("architecture", ["gemma2", "mistral", "gpt_neox", "phi3"])
def test_general_path(architecture: str, tmp_path: Path) -> None:
    """Soft caps, windows, and heads of unusual sizes; float32, where a wrong one cannot hide in rounding."""
    folder = save_tiny(architecture, tmp_path)
    engine = CudaEngine.load(folder, name="tiny", dtype="float32", kv_bytes=64 << 20, device="cuda")
    engine.warm_up()
    check(engine, folder, "float32")
