"""What the engine honours of a model, and the refusal of everything else: never served approximately.

`check_config` reads the configuration before weights are loaded. `ProbeAttention` stands in for the attention of one
small forward pass and sees what the model really asks of each layer. Called by `general_runner` at load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from shared.core import KvLayout
from shared.engine.attention import AttentionKind
from shared.errors import UnsupportedModel

_LAYER_TYPES = {"full_attention", "sliding_attention"}
_ROPE_TYPES = {"default", "linear", "llama3", "yarn", "dynamic", "longrope", "proportional"}
_REFUSED_IF_SET = {
    "quantization_config": "quantized weights",
    "is_encoder_decoder": "an encoder",
    "alibi": "ALiBi positions",
    "attention_chunk_size": "chunked attention",
    "kv_lora_rank": "latent attention (MLA)",
    "num_kv_shared_layers": "layers that share a cache",
    "use_bidirectional_attention": "bidirectional attention",
    "num_local_experts": "experts",
    "num_experts": "experts",
    "n_routed_experts": "experts",
}


def check_config(config: Any) -> None:
    """Raise UnsupportedModel for what a transformers `config` asks and the engine does not honour."""
    for name, what in _REFUSED_IF_SET.items():
        if getattr(config, name, None):
            raise UnsupportedModel(f"a model with {what} ({name}) is not supported")
    if config.get_text_config() is not config:
        raise UnsupportedModel(f"a model of several modalities ({config.model_type}) is not supported")
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise UnsupportedModel(f"layers of type {', '.join(sorted(unknown))} are not supported")
    for rope in _ropes(config):
        if rope.get("rope_type", "default") not in _ROPE_TYPES:
            raise UnsupportedModel(f"rope of type {rope['rope_type']} is not supported")


def context_tokens(config: Any) -> int:
    """The longest sequence that is computed exactly.

    Rope that changes with a sequence's length (dynamic, longrope) is exact up to the length of the original training:
    beyond it, what a token's cached K should be depends on tokens that come later.
    """
    limit = int(config.max_position_embeddings)
    for rope in _ropes(config):
        if rope.get("rope_type") in {"dynamic", "longrope"}:
            limit = min(limit, int(rope.get("original_max_position_embeddings") or limit))
    return limit


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The rope parameters: one dict for the model, or one per type of layer."""
    ropes = getattr(config, "rope_parameters", None) or {}
    return [ropes] if "rope_type" in ropes or "rope_theta" in ropes else [one for one in ropes.values() if one]


@dataclass(slots=True)
class ProbeAttention:
    """Attention that computes nothing and notes, per layer, its kind and the shapes of a cache entry."""

    kinds: dict[int, AttentionKind] = field(default_factory=dict)
    shapes: set[tuple[int, int, int, int]] = field(default_factory=set)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        if layer in self.kinds:
            raise UnsupportedModel(f"layer {layer} attends twice, which is not supported")
        self.kinds[layer] = kind
        self.shapes.add((key.shape[0], key.shape[2], value.shape[2], query.shape[2]))
        if query.shape[0] % key.shape[0]:
            raise UnsupportedModel(f"{query.shape[0]} heads over {key.shape[0]} KV heads are not supported")
        return torch.zeros_like(query).transpose(0, 1)

    def layout(self, config: Any, dtype: str) -> KvLayout:
        """The cache's layout, once the pass is over. Raises UnsupportedModel when the layers do not agree on one."""
        layers = int(config.num_hidden_layers)
        if set(self.kinds) != set(range(layers)):
            raise UnsupportedModel(f"only layers {sorted(self.kinds)} of {layers} attend, which is not supported")
        if len(self.shapes) != 1:
            raise UnsupportedModel("layers with caches of different shapes are not supported")
        kv_heads, key_dim, value_dim, query_dim = self.shapes.pop()
        if not key_dim == value_dim == query_dim:
            raise UnsupportedModel(f"keys of {key_dim} and values of {value_dim} numbers per head are not supported")
        self._check_windows(config, context_tokens(config))
        return KvLayout(layers=layers, kv_heads=kv_heads, head_dim=key_dim, dtype=dtype)

    def _check_windows(self, config: Any, longest: int) -> None:
        """Every layer that the configuration calls sliding must have told its window, and no other."""
        window = getattr(config, "sliding_window", None)
        if not getattr(config, "use_sliding_window", True):
            window = None
        types = getattr(config, "layer_types", None)
        for layer, kind in self.kinds.items():
            slides = types[layer] == "sliding_attention" if types else True
            expected = window if slides else None
            if kind.window != expected and min(kind.window or longest, expected or longest) < longest:
                raise UnsupportedModel(
                    f"layer {layer} has a window of {kind.window} tokens where the configuration says {expected}"
                )
