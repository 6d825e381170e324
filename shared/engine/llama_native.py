"""The work between a layer's matrix products in native kernels: three calls where torch takes forty.

Results go to buffers that are made for the largest call so far and used again. See `llama_ops.LlamaOps`; the kernels
compute each row alone, so only a library's matrix products need rows of filling. `llama_runner` takes it where there
are kernels.
"""

from __future__ import annotations

import torch

from shared.engine.attention import AttentionKind
from shared.engine.llama_config import LlamaConfig
from shared.engine.llama_ops import MIN_ROWS, LlamaPass
from shared.engine.llama_weights import LayerWeights
from shared.engine.native import HeadNorms, Kernels, KvTable, RopeTables
from shared.engine.packed import PackedBatch, RowRule
from shared.engine.team import ROWS_AT_ONCE


class NativeOps:
    """See `llama_ops.LlamaOps`."""

    def __init__(
        self,
        config: LlamaConfig,
        dtype: torch.dtype,
        angles: tuple[torch.Tensor, torch.Tensor],
        kernels: Kernels,
        *,
        own_products: bool,
    ) -> None:
        """`own_products`: the matrices are native, too."""
        self.config = config
        self.kernels = kernels
        self.kind = AttentionKind(scale=config.head_dim**-0.5)
        self.ropes = _ropes(config, angles)
        self._normed = _Buffer(config.hidden_size, dtype)
        self._attended = _Buffer(config.query_size, dtype)
        self._activated = _Buffer(config.intermediate_size, dtype)
        self.row_rule = RowRule(1, 1) if own_products else RowRule(MIN_ROWS[dtype], ROWS_AT_ONCE[dtype])

    def begin(self, batch: PackedBatch) -> LlamaPass:
        return _NativePass(self, KvTable(batch), self._attended.rows(batch.input_ids.shape[1]))

    def norm(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = self._normed.rows(len(hidden))
        self.kernels.add_rms_norm(hidden, None, weight, self.config.rms_norm_eps, out)
        return out

    def add_norm(self, hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = self._normed.rows(len(hidden))
        self.kernels.add_rms_norm(hidden, update, weight, self.config.rms_norm_eps, out)
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        out = self._activated.rows(len(gate_up))
        self.kernels.silu_mul(gate_up, out)
        return out


class _NativePass:
    """See `llama_ops.LlamaPass`. `attended` is `[rows, heads * head_dim]`."""

    def __init__(self, ops: NativeOps, table: KvTable, attended: torch.Tensor) -> None:
        self._ops, self._table = ops, table
        self._shape = (len(attended), ops.config.heads, ops.config.head_dim)
        self._attended, self._by_head = attended, attended.view(self._shape)

    def attend(self, layer: int, weights: LayerWeights, qkv: torch.Tensor) -> torch.Tensor:
        ops = self._ops
        norms = None
        if weights.query_norm is not None and weights.key_norm is not None:
            norms = HeadNorms(weights.query_norm, weights.key_norm, ops.config.rms_norm_eps)
        ops.kernels.rope_store(self._table, layer, qkv, ops.ropes[layer], norms)
        query = qkv.as_strided(self._shape, (qkv.stride(0), self._shape[2], 1))
        ops.kernels.attend(self._table, layer, query, self._by_head, ops.kind)
        return self._attended


class _Buffer:
    """Room for rows of one width: grows to the largest call, and is then used again."""

    __slots__ = ("_all", "_last")

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        self._all = self._last = torch.empty((0, width), dtype=dtype)

    def rows(self, count: int) -> torch.Tensor:
        """`[count, width]`; what it held is lost at the next call."""
        if len(self._last) != count:
            if len(self._all) < count:
                self._all = torch.empty((count, self._all.shape[1]), dtype=self._all.dtype)
            self._last = self._all[:count]
        return self._last


def _ropes(config: LlamaConfig, angles: tuple[torch.Tensor, torch.Tensor]) -> tuple[RopeTables, ...]:
    """Per layer what turns it; a layer without rope is turned by nothing."""
    cosines, sines = (table.float().contiguous() for table in angles)
    turning = RopeTables(cosines, sines)
    if all(config.rotated):
        return (turning,) * config.layers
    resting = RopeTables(torch.ones_like(cosines), torch.zeros_like(sines))
    return tuple(turning if rotated else resting for rotated in config.rotated)
