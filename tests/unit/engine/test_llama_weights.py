"""Weights read straight from safetensors: merged without a changed bit, and refused when anything is amiss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.engine.llama_config import LlamaConfig, read_config
from shared.engine.llama_weights import expected_shapes, read_weights
from shared.engine.matrix import matrix
from shared.errors import UnsupportedModel

CONFIG = read_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 96,
        "intermediate_size": 200,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
)
CPU = torch.device("cpu")


def random_tensors(config: LlamaConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in expected_shapes(config).items()}


def saved(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [4, 5, 32, 257])
def test_a_merged_matrix_gives_the_bits_of_its_parts(dtype: torch.dtype, rows: int) -> None:
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn((out, 576), generator=generator).to(dtype) for out in (576, 192, 192)]
    biases = [torch.randn(len(part), generator=generator).to(dtype) for part in parts]
    x = torch.randn((rows, 576), generator=generator).to(dtype)
    separate = [torch.nn.functional.linear(x, part, bias) for part, bias in zip(parts, biases, strict=True)]
    assert torch.equal(matrix(torch.cat(parts), torch.cat(biases))(x), torch.cat(separate, dim=1))


def test_reads_every_tensor_into_its_place(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    weights = read_weights([saved(tensors, tmp_path / "a.safetensors")], CONFIG, torch.float32, CPU)
    x = torch.randn((4, 96))
    names = [f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkv"]
    assert torch.equal(weights.layers[1].qkv(x), x @ torch.cat([tensors[name] for name in names]).T)
    assert torch.equal(weights.layers[0].mlp_norm, tensors["model.layers.0.post_attention_layernorm.weight"])
    assert torch.equal(weights.head(x), x @ tensors["lm_head.weight"].T)


def test_weights_do_not_stay_in_the_file(tmp_path: Path) -> None:
    path = saved(random_tensors(CONFIG), tmp_path / "a.safetensors")
    weights = read_weights([path], CONFIG, torch.float32, CPU)
    before = weights.embedding.clone()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))
    assert torch.equal(weights.embedding, before)


def test_several_files_are_one_model(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    names = sorted(tensors)
    parts = [{name: tensors[name] for name in some} for some in (names[::2], names[1::2])]
    files = [saved(part, tmp_path / f"{index}.safetensors") for index, part in enumerate(parts)]
    assert torch.equal(read_weights(files, CONFIG, torch.float32, CPU).final_norm, tensors["model.norm.weight"])


def test_refuses_what_it_does_not_expect(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    missing = {name: one for name, one in tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}
    cases = {
        "missing": missing,
        "unknown": tensors | {"model.layers.0.self_attn.sinks": torch.zeros(6)},
        "shape": tensors | {"model.norm.weight": torch.zeros(95)},
        "dtype": tensors | {"model.norm.weight": torch.zeros(96, dtype=torch.int8)},
    }
    for name, case in cases.items():
        with pytest.raises(UnsupportedModel):
            read_weights([saved(case, tmp_path / f"{name}.safetensors")], CONFIG, torch.float32, CPU)


def test_refuses_a_tensor_in_two_files(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    norm = {"model.norm.weight": tensors["model.norm.weight"]}
    files = [saved(tensors, tmp_path / "a.safetensors"), saved(norm, tmp_path / "b.safetensors")]
    with pytest.raises(UnsupportedModel, match="several"):
        read_weights(files, CONFIG, torch.float32, CPU)
