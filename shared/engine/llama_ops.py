"""What a layer computes between its matrix products: the seam where native kernels stand in for torch calls.

`TorchOps` is the one that runs everywhere, and the reference for every other. Its bits do not depend on a row's
neighbours as long as calls follow its row rule. Knows no weights' files and no sequences; `llama_runner` calls it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from shared.engine.attention import AttentionContext, AttentionKind
from shared.engine.llama_config import LlamaConfig
from shared.engine.llama_weights import LayerWeights
from shared.engine.packed import PackedBatch, RowRule
from shared.engine.team import ROWS_AT_ONCE

VECTOR_ELEMENTS = 64
MIN_ROWS = {torch.float32: 4, torch.bfloat16: 4}
"""Products of fewer rows have other bits: of 1 to 3 in float32, of 1 in bf16; there 4 rows take less time as well."""


class LlamaPass(Protocol):
    """One forward pass over one batch."""

    def attend(self, layer: int, weights: LayerWeights, qkv: torch.Tensor) -> torch.Tensor:
        """Norm and turn queries and keys, write the cache, attend: `[rows, qkv]` -> `[rows, heads * head_dim]`.

        May overwrite `qkv`. Rows of filling come out finite, whatever they are.
        """


class LlamaOps(Protocol):
    """Everything of a layer but its matrix products."""

    @property
    def row_rule(self) -> RowRule:
        """How batches must be filled up for bits that do not depend on neighbours."""

    def begin(self, batch: PackedBatch) -> LlamaPass:
        """Get ready for one forward pass."""

    def norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The RMS norm of each row of `[rows, hidden]`."""

    def add_norm(self, hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Add `update` to `hidden` in place, and return the RMS norm of the sum."""

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`silu(gate) * up`: `[rows, 2 * intermediate]` -> `[rows, intermediate]`."""


class TorchOps:
    """Plain torch calls, in the order and the roundings of transformers' own modules. See `LlamaOps`."""

    def __init__(
        self,
        config: LlamaConfig,
        dtype: torch.dtype,
        angles: tuple[torch.Tensor, torch.Tensor],
        attention_of: Callable[[PackedBatch], AttentionContext],
    ) -> None:
        """`angles` are the tables of `llama_rope`; `attention_of` makes the attention of one forward pass."""
        self._config = config
        self._angles = angles
        self._attention_of = attention_of
        widths = (config.hidden_size, config.qkv_size, config.intermediate_size, config.head_dim)
        multiple = max(VECTOR_ELEMENTS // math.gcd(VECTOR_ELEMENTS, width) for width in widths)
        self.row_rule = RowRule(minimum=MIN_ROWS[dtype], multiple=max(multiple, ROWS_AT_ONCE[dtype]))

    def begin(self, batch: PackedBatch) -> LlamaPass:
        cosines, sines = (table[batch.position_ids[0]][:, None] for table in self._angles)
        return _TorchPass(self._config, self._attention_of(batch), cosines, sines)

    def norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, weight, self._config.rms_norm_eps)

    def add_norm(self, hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden.add_(update), weight, self._config.rms_norm_eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate.contiguous()).mul_(up.contiguous())


class _TorchPass:
    """See `LlamaPass`. `cosines` and `sines` are `[rows, 1, head_dim / 2]`."""

    def __init__(
        self, config: LlamaConfig, attention: AttentionContext, cosines: torch.Tensor, sines: torch.Tensor
    ) -> None:
        self._config = config
        self._attention = attention
        self._cosines, self._sines = cosines.repeat(1, 1, 2), sines.repeat(1, 1, 2)
        self._kind = AttentionKind(scale=config.head_dim**-0.5)

    def attend(self, layer: int, weights: LayerWeights, qkv: torch.Tensor) -> torch.Tensor:
        config = self._config
        sizes = [config.heads, config.kv_heads, config.kv_heads]
        query, key, value = torch.split(qkv.view(len(qkv), -1, config.head_dim), sizes, dim=1)
        if weights.query_norm is not None and weights.key_norm is not None:
            query = rms_norm(query.contiguous(), weights.query_norm, config.rms_norm_eps)
            key = rms_norm(key.contiguous(), weights.key_norm, config.rms_norm_eps)
        if config.rotated[layer]:
            query, key = self._turn(query), self._turn(key)
        query, key, value = (one.transpose(0, 1).contiguous() for one in (query, key, value))
        return self._attention.attend(layer, query, key, value, self._kind).view(len(qkv), -1)

    def _turn(self, x: torch.Tensor) -> torch.Tensor:
        """Rope by halves of `[rows, heads, head_dim]`."""
        x = x.contiguous()
        first, second = x.chunk(2, dim=-1)
        return x * self._cosines + torch.cat((-second, first), dim=-1) * self._sines


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The RMS norm over the last dimension, scaled in float32, rounded, then weighted."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)
