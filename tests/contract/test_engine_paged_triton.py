"""The CUDA engine's host code with Triton's kernels in the interpreter: the tokens of transformers."""

from pathlib import Path

import pytest
from paged_engine import InterpretedEngine
from tiny_models import load_reference, open_prompt, prefill_in, random_prompts, reference_tokens, save_tiny
from triton_here import DEVICE

pytestmark = pytest.mark.skipif(DEVICE.type != "cpu", reason="tests/gpu has the same on the GPU itself")
TOKENS = 6
PROMPTS = random_prompts([1, 70, 129])


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "smollm3"])
def test_tokens_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    folder = save_tiny(architecture, tmp_path, num_hidden_layers=2)
    engine = InterpretedEngine.load(folder, name="tiny", dtype="float32", kv_bytes=4 << 20)
    reference = load_reference(folder)
    tokens = []
    for index, prompt in enumerate(PROMPTS):
        open_prompt(engine, str(index), prompt, TOKENS)
        tokens.append([prefill_in(engine, str(index), sorted({0, len(prompt) // 2, len(prompt)}))])
    for _ in range(TOKENS - 1):
        for row, token in enumerate(engine.step(["0", "1", "2"])):
            tokens[row].append(token.token_id)
    assert tokens == [reference_tokens(reference, prompt, TOKENS) for prompt in PROMPTS]
