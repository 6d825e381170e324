"""The native kernels as functions of torch tensors: shapes are checked here, addresses go to the library.

All tensors are on the CPU and of the cache's dtype, bfloat16 or float32, unless said otherwise. Nothing is allocated.
Fused runners and `native_attention` call these.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from shared.engine.attention import AttentionKind
from shared.engine.native.kv_table import KvTable


@dataclass(frozen=True, slots=True)
class RopeTables:
    """`cos` and `sin` are float32 `[positions, rotated / 2]`, scaled, contiguous; the first `rotated` of `head_dim` turn."""

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorm of each head of queries and keys before the rotation (Qwen3): weights `[head_dim]`."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


class Kernels:
    """The loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def supports(self, dtype: torch.dtype, head_dim: int) -> bool:
        """Whether attention of this shape is native. Multiples of 16 up to 256, bfloat16 and float32."""
        raise NotImplementedError

    def attend(self, table: KvTable, layer: int, query: torch.Tensor, out: torch.Tensor, kind: AttentionKind) -> None:
        """Attend causally to the cache, which holds the pass's own tokens already.

        `query` is `[rows, heads, head_dim]`, of any strides but the last; `out` the same shape, contiguous; its
        filling rows are zeroed.
        """
        raise NotImplementedError

    def store(self, table: KvTable, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write `key` and `value` `[rows, kv_heads, head_dim]`, of any strides but the last, to the cache."""
        raise NotImplementedError

    def rope_store(
        self, table: KvTable, layer: int, qkv: torch.Tensor, rope: RopeTables, norms: HeadNorms | None = None
    ) -> None:
        """Norm and rotate the queries of `qkv` in place; norm, rotate and write its keys and values to the cache.

        `qkv` is `[rows, (heads + 2 * kv_heads) * head_dim]`, contiguous: queries, keys, values. Roundings are those of
        transformers' `apply_rotary_pos_emb` in the tensor's dtype. Filling rows are left alone.
        """
        raise NotImplementedError

    def add_rms_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
    ) -> None:
        """`hidden += delta` in place, then `out = LlamaRMSNorm(hidden)`; `[rows, width]`, contiguous."""
        raise NotImplementedError

    def silu_mul(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """`out = silu(gate) * up` for `gate_up` `[rows, 2 * width]`, gates first; `out` `[rows, width]`; contiguous."""
        raise NotImplementedError
