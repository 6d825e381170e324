"""What is refused, and by which of its settings; and how long a context is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig

from shared.engine.attention import AttentionKind, attention_forward
from shared.engine.support import ProbeAttention, check_config, context_tokens
from shared.errors import UnsupportedModel

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 4096}


def llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**(SIZES | changes))


@pytest.mark.parametrize(
    ("architecture", "what"),
    [
        ("mixtral", "experts"),
        ("deepseek_v3", "MLA"),
        ("llama4_text", "chunked"),
        ("t5", "encoder"),
        ("mamba2", "layers|experts|state"),
        ("gemma3", "modalities"),
    ],
)
def test_architectures_that_are_refused(architecture: str, what: str) -> None:
    with pytest.raises(UnsupportedModel, match=what):
        check_config(AutoConfig.for_model(architecture))


def test_quantized_weights_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="quantized"):
        check_config(llama(quantization_config={"quant_method": "fp8"}))


def test_plain_decoder_passes() -> None:
    check_config(llama())


@pytest.mark.parametrize(
    ("rope", "exact"),
    [
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "linear", "factor": 4.0}, 4096),
        ({"rope_type": "dynamic", "factor": 4.0}, 4096),
        (
            {
                "rope_type": "longrope",
                "factor": 4.0,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 1024,
            },
            1024,
        ),
    ],
)
def test_context_ends_where_rope_stops_being_exact(rope: dict[str, Any], exact: int) -> None:
    assert context_tokens(llama(rope_parameters={"rope_theta": 1e4, **rope})) == exact


def seen(config: LlamaConfig, kinds: dict[int, AttentionKind], head_dims: tuple[int, int] = (8, 8)) -> ProbeAttention:
    probe = ProbeAttention()
    for layer, kind in kinds.items():
        query, key, value = torch.zeros(2, 4, 8), torch.zeros(1, 4, head_dims[0]), torch.zeros(1, 4, head_dims[1])
        probe.attend(layer, query, key, value, kind)
    return probe


def test_probe_tells_the_layout() -> None:
    layout = seen(llama(), {0: AttentionKind(1.0), 1: AttentionKind(1.0)}).layout(llama(), "bfloat16")
    assert (layout.layers, layout.kv_heads, layout.head_dim, layout.dtype) == (2, 1, 8, "bfloat16")


def test_a_layer_that_never_attends_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="only layers"):
        seen(llama(), {0: AttentionKind(1.0)}).layout(llama(), "float32")


def test_values_of_another_size_than_keys_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="per head"):
        seen(llama(), {0: AttentionKind(1.0), 1: AttentionKind(1.0)}, (8, 4)).layout(llama(), "float32")


def test_a_window_the_layers_do_not_tell_is_refused() -> None:
    config = AutoConfig.for_model("mistral", **SIZES, sliding_window=16)
    with pytest.raises(UnsupportedModel, match="window"):
        seen(config, {0: AttentionKind(1.0), 1: AttentionKind(1.0)}).layout(config, "float32")


def test_a_window_as_long_as_the_context_is_none() -> None:
    config = AutoConfig.for_model("mistral", **SIZES, sliding_window=4096)
    assert seen(config, {0: AttentionKind(1.0), 1: AttentionKind(1.0)}).layout(config, "float32").layers == 2


def test_an_argument_that_would_change_the_result_is_refused() -> None:
    module = torch.nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(UnsupportedModel, match="s_aux"):
        attention_forward(module, tensor, tensor, tensor, None, baton_attention=ProbeAttention(), s_aux=tensor)
