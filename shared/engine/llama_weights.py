"""The weights of the Llama-like families, straight from safetensors: merged, packed, without transformers.

Queries, keys and values are one matrix, gate and up another. Every tensor of the files must be one that is expected,
and every expected one must be there. Knows no forward pass; `llama_runner` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared.engine.llama_config import LlamaConfig
from shared.engine.load_progress import OnProgress, nobody
from shared.engine.matrix import Matrix, matrix
from shared.engine.native import Kernels, NativeLinear
from shared.errors import UnsupportedModel

_PLAIN_DTYPES = {"F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. `query_norm` and `key_norm` are `[head_dim]`, in models that have them."""

    input_norm: torch.Tensor
    qkv: Matrix
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    output: Matrix
    mlp_norm: torch.Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """A whole model. `embedding` is `[vocab, hidden]`, and `head` may be the same numbers once more, packed."""

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_norm: torch.Tensor
    head: Matrix

    @property
    def own_products(self) -> bool:
        """Whether native kernels multiply by its matrices: by all or none."""
        return isinstance(self.head, NativeLinear)


def read_weights(
    files: Sequence[Path],
    config: LlamaConfig,
    dtype: torch.dtype,
    device: torch.device,
    progress: OnProgress = nobody,
    *,
    kernels: Kernels | None = None,
) -> LlamaWeights:
    """Read `files`; matrices are laid out for `kernels` where these can multiply by them.

    Raises UnsupportedModel when the files hold anything but the tensors of `config`, once each.
    """
    with ExitStack() as stack:
        tensors = _open(files, stack)
        _check(tensors, expected_shapes(config))
        kernels = kernels if _multiply_all(kernels, config, dtype) else None
        reader = _Reader(tensors, dtype, device, kernels)
        embedding = reader.read("model.embed_tokens.weight")
        return LlamaWeights(
            embedding=embedding,
            layers=tuple(_layers(reader, config, progress)),
            final_norm=reader.read("model.norm.weight"),
            head=matrix(embedding if config.tied else reader.read("lm_head.weight"), None, kernels),
        )


def _multiply_all(kernels: Kernels | None, config: LlamaConfig, dtype: torch.dtype) -> bool:
    """All or none: what computes a sequence has one name (`arithmetic`)."""
    widths = (config.hidden_size, config.query_size, config.intermediate_size)
    return kernels is not None and all(kernels.multiplies(dtype, width) for width in widths)


def expected_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor a model of `config` has, by name."""
    hidden, kv_size = config.hidden_size, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tied:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    projections = {
        "self_attn.q_proj": (config.query_size, hidden, config.qkv_bias),
        "self_attn.k_proj": (kv_size, hidden, config.qkv_bias),
        "self_attn.v_proj": (kv_size, hidden, config.qkv_bias),
        "self_attn.o_proj": (hidden, config.query_size, config.output_bias),
        "mlp.gate_proj": (config.intermediate_size, hidden, config.mlp_bias),
        "mlp.up_proj": (config.intermediate_size, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, config.intermediate_size, config.mlp_bias),
    }
    for layer in (f"model.layers.{index}" for index in range(config.layers)):
        shapes |= {f"{layer}.{name}.weight": (out, into) for name, (out, into, _) in projections.items()}
        shapes |= {f"{layer}.{name}.bias": (out,) for name, (out, _, biased) in projections.items() if biased}
        shapes |= {f"{layer}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        if config.head_norms:
            shapes |= {f"{layer}.self_attn.{name}.weight": (config.head_dim,) for name in ("q_norm", "k_norm")}
    return shapes


def _open(files: Sequence[Path], stack: ExitStack) -> dict[str, Any]:
    """The open file that holds each tensor, by the tensor's name."""
    from safetensors import safe_open  # noqa: PLC0415 - torch's part of it is slow to import

    holders: dict[str, Any] = {}
    for path in files:
        file = stack.enter_context(safe_open(path, framework="pt"))
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if name in holders:
                raise UnsupportedModel(f"several files hold {name}")
            holders[name] = file
    return holders


def _check(tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = set(tensors) ^ set(expected)
    if wrong:
        raise UnsupportedModel(f"the fused runner finds tensors missing or unknown: {', '.join(sorted(wrong)[:4])}")
    for name, shape in expected.items():
        view = tensors[name].get_slice(name)
        if tuple(view.get_shape()) != shape or view.get_dtype() not in _PLAIN_DTYPES:
            raise UnsupportedModel(f"{name} is {view.get_dtype()} {view.get_shape()}, not {shape}")


class _Reader:
    """Tensors by name, in the dtype and on the device of the engine."""

    def __init__(
        self, tensors: Mapping[str, Any], dtype: torch.dtype, device: torch.device, kernels: Kernels | None
    ) -> None:
        self._tensors, self._dtype, self._device, self._kernels = tensors, dtype, device, kernels

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._tensors[name].get_tensor(name)
        return tensor.to(self._device, self._dtype, copy=True)

    def matrix(self, layer: str, names: Sequence[str], *, biased: bool) -> Matrix:
        """The projections `names` as one matrix, in that order."""
        weight = torch.cat([self.read(f"{layer}.{name}.weight") for name in names])
        bias = torch.cat([self.read(f"{layer}.{name}.bias") for name in names]) if biased else None
        return matrix(weight, bias, self._kernels)


def _layers(reader: _Reader, config: LlamaConfig, progress: OnProgress) -> Iterator[LayerWeights]:
    for index in range(config.layers):
        yield _layer(reader, f"model.layers.{index}", config)
        progress("layers read and packed", index + 1, config.layers)


def _layer(reader: _Reader, layer: str, config: LlamaConfig) -> LayerWeights:
    attention = [f"self_attn.{name}_proj" for name in "qkv"]
    return LayerWeights(
        input_norm=reader.read(f"{layer}.input_layernorm.weight"),
        qkv=reader.matrix(layer, attention, biased=config.qkv_bias),
        query_norm=reader.read(f"{layer}.self_attn.q_norm.weight") if config.head_norms else None,
        key_norm=reader.read(f"{layer}.self_attn.k_norm.weight") if config.head_norms else None,
        output=reader.matrix(layer, ["self_attn.o_proj"], biased=config.output_bias),
        mlp_norm=reader.read(f"{layer}.post_attention_layernorm.weight"),
        gate_up=reader.matrix(layer, ["mlp.gate_proj", "mlp.up_proj"], biased=config.mlp_bias),
        down=reader.matrix(layer, ["mlp.down_proj"], biased=config.mlp_bias),
    )
