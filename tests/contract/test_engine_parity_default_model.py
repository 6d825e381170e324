"""The torch engine on the default model against transformers' own `generate`, greedy, token for token."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from ties import assert_same_or_tied
from tiny_models import load_reference, open_prompt, prefill_in, reference_tokens
from tokenizers import Tokenizer

from shared.engine.contract import PrefillSlice
from shared.engine.torch_engine import TorchEngine

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]

TOKENS = 16
LENGTHS = [1, 2, 5, 17, 64, 130, 300, 1500]
SLICE_TOKENS = 256


@pytest.fixture(scope="module")
def prompts(model_folder: Path) -> list[list[int]]:
    """Prompts of real text, each from another place."""
    ids = Tokenizer.from_file(str(model_folder / "tokenizer.json")).encode(Path(argparse.__file__).read_text()).ids
    return [ids[100 * index : 100 * index + length] for index, length in enumerate(LENGTHS)]


def alone(engine: TorchEngine, prompt: list[int]) -> list[int]:
    open_prompt(engine, "s", prompt, TOKENS)
    cuts = [*range(0, len(prompt), SLICE_TOKENS), len(prompt)]
    tokens = [prefill_in(engine, "s", cuts)]
    tokens += [engine.step(["s"])[0].token_id for _ in range(TOKENS - 1)]
    engine.close("s")
    return tokens


def all_at_once(engine: TorchEngine, prompts: list[list[int]]) -> list[list[int]]:
    keys = [str(index) for index in range(len(prompts))]
    for key, prompt in zip(keys, prompts, strict=True):
        open_prompt(engine, key, prompt, TOKENS)
    slices = [PrefillSlice(key, 0, len(prompt)) for key, prompt in zip(keys, prompts, strict=True)]
    steps = [engine.prefill(slices), *(engine.step(keys) for _ in range(TOKENS - 1))]
    for key in keys:
        engine.close(key)
    return [[token.token_id for token in column if token] for column in zip(*steps, strict=True)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_generate_alone_and_together(model_folder: Path, prompts: list[list[int]], dtype: str) -> None:
    engine = TorchEngine.load(model_folder, name="default", dtype=dtype, kv_bytes=256 << 20)
    ours = [alone(engine, prompt) for prompt in prompts]
    assert all_at_once(engine, prompts) == ours
    reference = load_reference(model_folder, getattr(torch, dtype))
    theirs = [reference_tokens(reference, prompt, TOKENS) for prompt in prompts]
    if dtype == "float32":
        assert ours == theirs
        return
    exact = load_reference(model_folder, torch.bfloat16).float()
    for prompt, our, their in zip(prompts, ours, theirs, strict=True):
        assert_same_or_tied(prompt, our, their, reference, exact)
