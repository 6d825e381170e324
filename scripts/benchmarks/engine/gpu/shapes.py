"""Models by their shape alone, with random weights made on the device: no download, and the speed of the real ones."""

from __future__ import annotations

from typing import Any

import torch

from shared.core import ModelSpec
from shared.engine.cuda.engine import CudaEngine
from shared.engine.cuda.place import cuda_device
from shared.engine.kv_memory import KvMemory
from shared.engine.llama_config import LlamaConfig, read_config
from shared.engine.llama_runner import LlamaModel
from shared.engine.llama_weights import LayerWeights, LlamaWeights
from shared.engine.matrix import Matrix, matrix

DTYPE = torch.bfloat16
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": _LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "smollm2-135m": _LLAMA
    | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
}


def random_engine(shape: str, kv_bytes: int, device: str = "cuda") -> CudaEngine:
    """An engine of one of `SHAPES`, warm. Raises ConfigError where there is no GPU."""
    place = cuda_device(device)
    torch.cuda.set_device(place)
    config = read_config(SHAPES[shape])
    model = LlamaModel(config, _random_weights(config, place), DTYPE)
    memory = KvMemory(model.layout, kv_bytes, place)
    spec = ModelSpec(
        name=shape,
        fingerprint="0" * 16,
        vocab_size=config.vocab_size,
        context_tokens=config.context_tokens,
        eos_token_ids=(),
        layout=model.layout,
    )
    kernels = CudaEngine._kernels(model.layout, True, None)
    engine = CudaEngine(spec, model.runner(memory, kernels), memory, place)
    engine.warm_up()
    return engine


def _random_weights(config: LlamaConfig, device: torch.device) -> LlamaWeights:
    torch.manual_seed(1)

    def random_matrix(outputs: int, inputs: int) -> Matrix:
        return matrix(torch.randn((outputs, inputs), dtype=DTYPE, device=device).mul_(0.02), None)

    def norm() -> torch.Tensor:
        return torch.ones(config.hidden_size, dtype=DTYPE, device=device)

    def layer() -> LayerWeights:
        return LayerWeights(
            input_norm=norm(),
            qkv=random_matrix(config.qkv_size, config.hidden_size),
            query_norm=None,
            key_norm=None,
            output=random_matrix(config.hidden_size, config.query_size),
            mlp_norm=norm(),
            gate_up=random_matrix(2 * config.intermediate_size, config.hidden_size),
            down=random_matrix(config.hidden_size, config.intermediate_size),
        )

    embedding = torch.randn((config.vocab_size, config.hidden_size), dtype=DTYPE, device=device)
    head = matrix(embedding, None) if config.tied else random_matrix(config.vocab_size, config.hidden_size)
    layers = tuple(layer() for _ in range(config.layers))
    return LlamaWeights(embedding=embedding, layers=layers, final_norm=norm(), head=head)
