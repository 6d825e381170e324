"""Tiny random models of many architectures, and what transformers itself makes of them.

Large random weights, so that a wrong mask, scale or position changes the very next token.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from shared.core import KvRegion, SamplingParams
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.torch_engine import TorchEngine

VOCAB = 320
_BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_WINDOW = {"sliding_window": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _BASE | {"tie_word_embeddings": True},
    "mistral": _BASE | _WINDOW,
    "qwen2": _BASE | _WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": _BASE | {"head_dim": 32},
    "phi3": _BASE | {"sliding_window": None},
    "gemma2": _BASE
    | _WINDOW
    | {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0},
    "gemma3_text": _BASE | _WINDOW | {"query_pre_attn_scalar": 24},
    "gpt_neox": _BASE | {"hidden_size": 72, "num_attention_heads": 3},
    "granite": _BASE
    | {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "olmo2": _BASE | {"num_key_value_heads": 4},
    "smollm3": _BASE | {"no_rope_layer_interval": 2},
    "starcoder2": _BASE | _WINDOW,
    "cohere2": _BASE | _WINDOW,
    "gpt2": {
        "vocab_size": VOCAB,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 256,
        "initializer_range": 0.2,
    },
}
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


def save_tiny(architecture: str, folder: Path, **changes: Any) -> Path:
    """Write a random float32 model of `architecture` to `folder`."""
    torch.manual_seed(7)
    config = transformers.AutoConfig.for_model(architecture, **(ARCHITECTURES[architecture] | changes))
    model = transformers.AutoModelForCausalLM.from_config(config)
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def load_reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model as transformers runs it on its own, on one thread: two wait for each other on a busy machine."""
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def reference_tokens(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """Greedy `generate`."""
    ids = torch.tensor([list(prompt)])
    generated = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    result: list[int] = generated[0, len(prompt) :].tolist()
    return result


def random_prompts(lengths: Sequence[int], seed: int = 3) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCAB) for _ in range(length)] for length in lengths]


def load_engine(folder: Path, dtype: str = "float32", **settings: Any) -> TorchEngine:
    return TorchEngine.load(folder, name="tiny", dtype=dtype, kv_bytes=16 << 20, **settings)


def open_prompt(engine: TorchEngine, key: str, prompt: Sequence[int], tokens: int, **changes: Any) -> None:
    sampling = changes.pop("sampling", GREEDY)
    engine.open(
        SequenceSpec(key=key, prompt_ids=prompt, sampling=sampling, capacity_tokens=len(prompt) + tokens, **changes)
    )


def prefill_in(engine: TorchEngine, key: str, cuts: Sequence[int]) -> int:
    """Prefill the slices between `cuts`, the last of which ends the prompt; the first token."""
    token = None
    for start, stop in itertools.pairwise(cuts):
        (token,) = engine.prefill([PrefillSlice(key, start, stop)])
    assert token is not None
    return token.token_id


def random_cuts(length: int, rng: random.Random) -> list[int]:
    inner = rng.sample(range(1, length), k=min(length - 1, rng.randrange(1, 5)))
    return [0, *sorted(inner), length]


def kv_of(engine: TorchEngine, key: str, tokens: int) -> bytes:
    """All KV bytes of the first `tokens` tokens."""
    return bytes(engine.export_kv(key, KvRegion(0, engine.spec.layout.layers, 0, tokens)))
