"""The native kernels as functions of torch tensors: shapes are checked here, addresses go to the library.

All tensors are on the CPU and of the cache's dtype, bfloat16 or float32, unless said otherwise. No tensor is allocated.
Fused runners and `native_attention` call these.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from shared.engine.attention import AttentionKind
from shared.engine.native.calls import AttendCall, LinearCall, NormCall, RopeCall, SiluCall, StoreCall
from shared.engine.native.int8 import Int8Kernels
from shared.engine.native.kv_table import KvTable
from shared.engine.native.linear import NativeLinear

_BF16 = {torch.bfloat16: 1, torch.float32: 0}
_MAX_HEAD_DIM = 512


@dataclass(frozen=True, slots=True)
class RopeTables:
    """`cos` and `sin` are float32 `[positions, rotated / 2]`, scaled, contiguous.

    The first `rotated` of a head's `head_dim` numbers turn, the first half of them against the second.
    """

    cos: torch.Tensor
    sin: torch.Tensor


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMSNorm of each head of queries and keys before the rotation (Qwen3): weights `[head_dim]`."""

    query: torch.Tensor
    key: torch.Tensor
    eps: float


class Kernels:
    """The loaded library. All functions release the GIL, and raise ValueError for tensors they cannot take.

    Each call computes on `threads` threads, its own among them; on one if the compiler had no OpenMP. `int8` are the
    kernels for caches on their way, on one thread.
    """

    def __init__(self, library: ctypes.CDLL, threads: int = 1) -> None:
        self.threads = threads
        self._attend = library.baton_attend
        self._store = library.baton_store
        self._rope_store = library.baton_rope_store
        self._linear = library.baton_linear
        self._add_rms_norm = library.baton_add_rms_norm
        self._silu_mul = library.baton_silu_mul
        self.int8 = Int8Kernels(library)

    @staticmethod
    def supports(dtype: torch.dtype, head_dim: int) -> bool:
        """Whether attention of this shape is native: heads of a multiple of 16 numbers up to 512."""
        return dtype in _BF16 and head_dim % 16 == 0 and head_dim <= _MAX_HEAD_DIM

    def multiplies(self, dtype: torch.dtype, inputs: int) -> bool:
        """Whether there are native products with weights of so many inputs: in bf16, on processors that have it."""
        return dtype == torch.bfloat16 and inputs % 2 == 0 and self._linear(LinearCall(threads=self.threads)) == 0

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> NativeLinear:
        """The linear layer of a `weight` on the CPU whose kind it `multiplies`."""
        return NativeLinear(self._linear, weight, bias, self.threads)

    def attend(self, table: KvTable, layer: int, query: torch.Tensor, out: torch.Tensor, kind: AttentionKind) -> None:
        """Attend causally to the cache, which holds the pass's own tokens already.

        `query` is `[rows, heads, head_dim]`, of any strides but the last; `out` the same shape, contiguous; its
        filling rows are zeroed.
        """
        rows, heads, head_dim = query.shape
        _require(query.dtype == table.dtype and query.stride(2) == 1 and head_dim == table.head_dim, "query", query)
        _require(rows == table.rows and heads % table.kv_heads == 0, "query", query)
        _require(out.dtype == table.dtype and out.is_contiguous() and out.numel() == query.numel(), "out", out)
        call = AttendCall(
            table.address,
            table.count,
            rows,
            _BF16[table.dtype],
            table.kv_heads,
            head_dim,
            table.layer_stride * layer,
            table.head_stride,
            query.data_ptr(),
            out.data_ptr(),
            heads,
            query.stride(0),
            query.stride(1),
            kind.window or 0,
            self.threads,
            kind.scale,
            kind.softcap or 0.0,
        )
        if self._attend(call):
            raise MemoryError("no memory for the scratch space of native attention")

    def store(self, table: KvTable, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write `key` and `value` `[rows, kv_heads, head_dim]`, of any strides but the last, to the cache."""
        for name, one in (("key", key), ("value", value)):
            _require(one.shape == (table.rows, table.kv_heads, table.head_dim), name, one)
            _require(one.dtype == table.dtype and one.stride(2) == 1, name, one)
        call = StoreCall(
            *_cache_of(table, layer),
            key.data_ptr(),
            value.data_ptr(),
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            self.threads,
        )
        if self._store(call):
            raise MemoryError("no memory for a list of what to store")

    def rope_store(
        self, table: KvTable, layer: int, qkv: torch.Tensor, rope: RopeTables, norms: HeadNorms | None = None
    ) -> None:
        """Norm and rotate the queries of `qkv` in place; norm, rotate and write its keys and values to the cache.

        `qkv` is `[rows, (heads + 2 * kv_heads) * head_dim]`, contiguous: queries, keys, values. Roundings are those of
        transformers' `apply_rotary_pos_emb` in the tensor's dtype. Filling rows are left alone.
        """
        heads = qkv.shape[1] // table.head_dim - 2 * table.kv_heads
        _require(qkv.dtype == table.dtype and qkv.is_contiguous() and qkv.shape[0] == table.rows, "qkv", qkv)
        _require(heads > 0 and qkv.shape[1] % table.head_dim == 0 and table.head_dim <= _MAX_HEAD_DIM, "qkv", qkv)
        _require(rope.cos.shape[0] >= table.positions and 2 * rope.cos.shape[1] <= table.head_dim, "cos", rope.cos)
        call = RopeCall(
            *_cache_of(table, layer),
            qkv.data_ptr(),
            heads,
            rope.cos.data_ptr(),
            rope.sin.data_ptr(),
            2 * rope.cos.shape[1],
            self.threads,
            norms.query.data_ptr() if norms else None,
            norms.key.data_ptr() if norms else None,
            norms.eps if norms else 0.0,
        )
        if self._rope_store(call):
            raise MemoryError("no memory for a list of what to store")

    def add_rms_norm(
        self, hidden: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float, out: torch.Tensor
    ) -> None:
        """`hidden += delta` in place, then `out = LlamaRMSNorm(hidden)`; `[rows, width]`, contiguous."""
        rows, width = hidden.shape
        for name, one in (("hidden", hidden), ("delta", hidden if delta is None else delta), ("out", out)):
            _require(one.shape == hidden.shape and one.dtype == hidden.dtype and one.is_contiguous(), name, one)
        _require(weight.dtype == hidden.dtype and weight.shape == (width,), "weight", weight)
        call = NormCall(
            _BF16[hidden.dtype],
            rows,
            width,
            self.threads,
            hidden.data_ptr(),
            None if delta is None else delta.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            eps,
        )
        if self._add_rms_norm(call):
            raise MemoryError("no memory for one row")

    def silu_mul(self, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """`out = silu(gate) * up` for `gate_up` `[rows, 2 * width]`, gates first; `out` `[rows, width]`; contiguous."""
        rows, width = out.shape
        _require(gate_up.shape == (rows, 2 * width) and gate_up.is_contiguous(), "gate_up", gate_up)
        _require(out.dtype == gate_up.dtype and out.is_contiguous(), "out", out)
        call = SiluCall(_BF16[out.dtype], rows, width, self.threads, gate_up.data_ptr(), out.data_ptr())
        if self._silu_mul(call):
            raise MemoryError("no memory for the activation")


def _cache_of(table: KvTable, layer: int) -> tuple[int, ...]:
    """What calls that write to the cache begin with."""
    shape = (_BF16[table.dtype], table.kv_heads, table.head_dim)
    return (table.address, table.count, *shape, table.layer_stride * layer, table.head_stride)


def _require(fits: bool, name: str, tensor: torch.Tensor) -> None:
    if not fits:
        shape, strides = list(tensor.shape), list(tensor.stride())
        raise ValueError(f"{name} of shape {shape}, strides {strides} and {tensor.dtype} does not fit")
