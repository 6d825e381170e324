"""The seam between a transformers model and the KV memory: an attention function of our own.

transformers calls `attention_forward` in every layer of a packed call and hands it the context that `BatonAttention`
implements; no mask function is registered under our name, so the models build none. The general path only; a fused
runner calls the same context itself. Knows neither sequences nor how attention is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from shared.errors import UnsupportedModel

ATTENTION_NAME = "baton"
CONTEXT_ARGUMENT = "baton_attention"

_HARMLESS = frozenset(
    {
        "position_ids",
        "use_cache",
        "cache_position",
        "output_attentions",
        "output_hidden_states",
        "is_causal",
        "layer_idx",
    }
)


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """How one layer attends: scores are `softcap * tanh(scale * q.k / softcap)` over the last `window` tokens."""

    scale: float
    softcap: float | None = None
    window: int | None = None


class AttentionContext(Protocol):
    """Where the attention of one forward pass is computed."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        """Write `key` and `value` `[kv_heads, rows, head_dim]` to the cache, and attend causally to all of it.

        `query` is `[heads, rows, head_dim]`; the result `[rows, heads, head_dim]`, zero in the filling rows.
        """


def attention_forward(  # noqa: PLR0917 - the signature is transformers'
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls: `query` `[1, heads, rows, head_dim]` -> `[1, rows, heads, head_dim]`.

    Raises UnsupportedModel for any argument that would change the result and is not honoured.
    """
    context: AttentionContext | None = kwargs.pop(CONTEXT_ARGUMENT, None)
    if context is None:
        raise UnsupportedModel(f"{type(module).__name__} does not pass arguments on to its attention function")
    kind = AttentionKind(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=kwargs.pop("softcap", None),
        window=kwargs.pop("sliding_window", None),
    )
    unknown = sorted(name for name, given in kwargs.items() if given is not None and name not in _HARMLESS)
    if unknown or attention_mask is not None or dropout:
        raise UnsupportedModel(f"attention with {', '.join(unknown) or 'a mask or dropout'} is not supported")
    layer: int = module.layer_idx  # type: ignore[assignment]
    return context.attend(layer, query[0], key[0], value[0], kind).unsqueeze(0), None


def register() -> None:
    """Make `attn_implementation="baton"` known to transformers. May be called again."""
    from transformers import AttentionInterface  # noqa: PLC0415

    AttentionInterface.register(ATTENTION_NAME, attention_forward)
