"""The fused runner's allow-list: what it reads of a configuration, and what it leaves to the general path."""

from __future__ import annotations

from typing import Any

import pytest

from shared.engine.llama_config import read_config
from shared.errors import UnsupportedModel

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
}
MISTRAL = LLAMA | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32}
QWEN3 = LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 32}
SMOLLM3 = LLAMA | {"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 1, 0]}


def without(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != name}


def test_llama() -> None:
    config = read_config(LLAMA)
    assert (config.head_dim, config.query_size, config.qkv_size, config.context_tokens) == (16, 64, 128, 256)
    assert config.rotated == (True, True, True)
    assert not any((config.qkv_bias, config.output_bias, config.mlp_bias, config.head_norms, config.tied))


def test_biases_are_those_of_the_family() -> None:
    biased = read_config(LLAMA | {"attention_bias": True, "mlp_bias": True})
    assert (biased.qkv_bias, biased.output_bias, biased.mlp_bias) == (True, True, True)
    qwen2 = read_config(QWEN2)
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.mlp_bias) == (True, False, False)


def test_qwen3_norms_its_heads() -> None:
    assert read_config(QWEN3).head_norms
    assert read_config(QWEN3).head_dim == 32


def test_smollm3_turns_some_layers_and_ties_by_default() -> None:
    assert read_config(SMOLLM3).rotated == (True, True, False)
    assert read_config(SMOLLM3).tied


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MISTRAL | {"sliding_window": 256}, id="as-long-as-the-context"),
        pytest.param(QWEN2 | {"use_sliding_window": False}, id="switched-off"),
        pytest.param(QWEN3 | {"layer_types": ["full_attention"] * 3}, id="all-full"),
    ],
)
def test_windows_that_hide_nothing(config: dict[str, Any]) -> None:
    assert read_config(config).layers == 3


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LLAMA | {"model_type": "gemma2"}, id="another-family"),
        pytest.param(LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, id="another-head"),
        pytest.param(LLAMA | {"logit_scale": 2.0}, id="unknown-option"),
        pytest.param(LLAMA | {"quantization_config": {}}, id="quantized"),
        pytest.param(LLAMA | {"hidden_act": "gelu"}, id="another-activation"),
        pytest.param(LLAMA | {"rope_interleaved": True}, id="interleaved-rope"),
        pytest.param(LLAMA | {"partial_rotary_factor": 0.5}, id="partial-rope"),
        pytest.param(LLAMA | {"num_key_value_heads": 3}, id="heads-that-do-not-divide"),
        pytest.param(LLAMA | {"head_dim": 15}, id="odd-heads"),
        pytest.param(without(LLAMA, "rms_norm_eps"), id="no-epsilon"),
        pytest.param(without(LLAMA, "vocab_size"), id="no-vocabulary"),
        pytest.param(MISTRAL | {"sliding_window": 32}, id="window"),
        pytest.param(without(MISTRAL, "sliding_window"), id="default-window"),
        pytest.param(QWEN2 | {"use_sliding_window": True}, id="window-switched-on"),
        pytest.param(QWEN3 | {"layer_types": ["sliding_attention"] * 3}, id="sliding-layers"),
        pytest.param(without(QWEN3, "head_dim"), id="default-head-dim"),
        pytest.param(without(SMOLLM3, "no_rope_layers"), id="default-rope-layers"),
    ],
)
def test_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel):
        read_config(config)
