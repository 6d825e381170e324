"""Which models the fused runner knows, read from `config.json` alone: an allow-list, key by key.

Whatever is not listed here is left to the general path, so a new option of a model can never be ignored by mistake.
Knows no weights and no transformers; `llama_runner` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.engine.llama_rope import Rope, read_rope
from shared.errors import UnsupportedModel

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
_READ = {
    "architectures",
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "no_rope_layer_interval",
    "no_rope_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_interleaved",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
}
_WITHOUT_EFFECT = {
    "_attn_implementation",
    "_model_name_or_path",
    "_name_or_path",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "is_llama_config",
    "max_window_layers",
    "pad_token_id",
    "pretraining_tp",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """One model of the family. `rotated` says of each layer whether it turns queries and keys."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_tokens: int
    rms_norm_eps: float
    rope: Rope
    rotated: tuple[bool, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    head_norms: bool
    tied: bool

    @property
    def query_size(self) -> int:
        return self.heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


def read_config(config: Mapping[str, Any]) -> LlamaConfig:
    """What `config` says, in full. Raises UnsupportedModel for anything the fused runner does not honour."""
    family = config.get("model_type")
    if family not in _ARCHITECTURES or config.get("architectures") != [_ARCHITECTURES[family]]:
        raise UnsupportedModel(f"the fused runner does not know {family} as {config.get('architectures')}")
    unknown = set(config) - _READ - _WITHOUT_EFFECT
    if unknown:
        raise UnsupportedModel(f"the fused runner does not know {', '.join(sorted(unknown))}")
    if config.get("hidden_act") != "silu" or config.get("rope_interleaved"):
        raise UnsupportedModel("the fused runner knows SiLU and rope by halves alone")
    heads, layers, context = (
        _positive(config, name) for name in ("num_attention_heads", "num_hidden_layers", "max_position_embeddings")
    )
    _check_windows(family, config, context)
    attention_bias = bool(config.get("attention_bias", False)) and family in {"llama", "qwen3", "smollm3"}
    return LlamaConfig(
        vocab_size=_positive(config, "vocab_size"),
        hidden_size=_positive(config, "hidden_size"),
        intermediate_size=_positive(config, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        head_dim=_head_dim(family, config, heads),
        context_tokens=context,
        rms_norm_eps=_number(config, "rms_norm_eps"),
        rope=read_rope(config),
        rotated=_rotated(family, config, layers),
        qkv_bias=attention_bias or family == "qwen2",
        output_bias=attention_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family in {"llama", "smollm3"},
        head_norms=family == "qwen3",
        tied=bool(config.get("tie_word_embeddings", family == "smollm3")),
    )


def _positive(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise UnsupportedModel(f"the fused runner needs {name} as a positive whole number, not {value!r}")
    return value


def _number(config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if not isinstance(value, int | float):
        raise UnsupportedModel(f"the fused runner needs {name} as a number, not {value!r}")
    return float(value)


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    kv_heads = _positive(config, "num_key_value_heads")
    if heads % kv_heads:
        raise UnsupportedModel(f"{heads} heads over {kv_heads} KV heads are not supported")
    return kv_heads


def _head_dim(family: str, config: Mapping[str, Any], heads: int) -> int:
    """Qwen3's default is not what the hidden size gives, so there it must be written down."""
    if config.get("head_dim") is None and family != "qwen3":
        head_dim, rest = divmod(_positive(config, "hidden_size"), heads)
    else:
        head_dim, rest = _positive(config, "head_dim"), 0
    if rest or head_dim % 2:
        raise UnsupportedModel(f"heads of {head_dim} numbers are not supported by the fused runner")
    return head_dim


def _check_windows(family: str, config: Mapping[str, Any], context: int) -> None:
    """Raise UnsupportedModel when a layer might see less than the whole context."""
    if family == "mistral" and "sliding_window" not in config:
        raise UnsupportedModel("the fused runner needs sliding_window to be written down")
    if family == "mistral" and "layer_types" in config:
        raise UnsupportedModel("the fused runner does not know layers of several types")
    slides = family == "mistral" or bool(config.get("use_sliding_window", False))
    types = set(config.get("layer_types") or ())
    window = config.get("sliding_window")
    if (slides and window is not None and window < context) or types - {"full_attention"}:
        raise UnsupportedModel("the fused runner does not know sliding windows")


def _rotated(family: str, config: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    if family != "smollm3":
        return (True,) * layers
    flags = config.get("no_rope_layers")
    if not isinstance(flags, list) or len(flags) != layers:
        raise UnsupportedModel("the fused runner needs no_rope_layers for every layer")
    return tuple(bool(flag) for flag in flags)
