"""Ropes of the fused runner: the angles are transformers' own, bit by bit, and unknown ropes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from shared.engine.llama_rope import Rope, angle_tables, read_rope
from shared.errors import UnsupportedModel

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
KNOWN = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": LLAMA3,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rope", KNOWN.values(), ids=KNOWN)
def test_angles_are_those_of_transformers(rope: dict[str, Any], dtype: torch.dtype) -> None:
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=1024, rope_parameters=dict(rope)
    )
    expected = LlamaRotaryEmbedding(config)(torch.empty(0, dtype=dtype), torch.arange(1024)[None])
    tables = angle_tables(read_rope({"rope_parameters": rope}), 64, 1024, dtype)
    for table, theirs in zip(tables, expected, strict=True):
        assert torch.equal(table, theirs[0, :, :32])


def test_a_positions_angles_do_not_depend_on_how_many_there_are() -> None:
    rope = Rope("default", 10000.0)
    few, many = angle_tables(rope, 24, 7, torch.float32), angle_tables(rope, 24, 1000, torch.float32)
    assert all(torch.equal(one[:7], other[:7]) for one, other in zip(few, many, strict=True))


def test_old_and_new_form_say_the_same() -> None:
    scaling = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    assert read_rope({"rope_theta": 500000.0, "rope_scaling": scaling}) == read_rope({"rope_parameters": LLAMA3})
    assert read_rope({"rope_theta": 1e4, "rope_scaling": None}) == Rope("default", 1e4)
    assert read_rope({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}}) == Rope("linear", 1e4, 2.0)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="none"),
        pytest.param({"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, id="dynamic"),
        pytest.param({"rope_theta": 1e4, "rope_scaling": {"type": "linear"}}, id="no-factor"),
        pytest.param({"rope_parameters": LLAMA3 | {"attention_factor": 0.5}}, id="unknown-key"),
        pytest.param({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, id="per-type"),
        pytest.param({"rope_parameters": KNOWN["default"], "rope_theta": 1e6}, id="twice"),
        pytest.param({"rope_parameters": {"rope_theta": None}}, id="no-theta"),
    ],
)
def test_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel):
        read_rope(config)
