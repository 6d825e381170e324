"""The kernels in Triton: shapes become launch parameters here. See `kernels.PagedKernels`, and `jit` for the kernels.

Everything is allocated through torch, so that a CUDA graph's own memory pool holds it.
"""

from __future__ import annotations

import torch
import triton

from shared.engine.attention import AttentionKind
from shared.engine.cuda.jit import decode, prefill, rows, store
from shared.engine.cuda.kernels import PagedKernels, Rope
from shared.engine.cuda.pages import Pages

SPLITS = 16
"""Of a sequence's blocks in a decode step: with 8 KV heads, one sequence alone fills a GPU of 132 multiprocessors."""

_SILU_COLUMNS = 1024


class TritonKernels(PagedKernels):
    """See `kernels.PagedKernels`."""

    def __init__(self, dtype: torch.dtype, head_dim: int) -> None:
        # Two stages of keys and values, and the queries, must fit a multiprocessor's shared memory.
        wide = dtype == torch.float32 or head_dim > 128
        self._tile_tokens = 64 if wide else 128
        self._warps = 4 if dtype == torch.float32 else 8
        self._stages = 2 if wide else 3

    @property
    def tile_tokens(self) -> int:
        return self._tile_tokens

    def add_rms_norm(
        self, hidden: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        count, width = hidden.shape
        out = torch.empty_like(hidden)
        if count:
            rows.add_rms_norm[(count,)](
                hidden,
                hidden if update is None else update,
                weight,
                out,
                width,
                eps,
                ADD=update is not None,
                WIDTH=triton.next_power_of_2(width),
                num_warps=min(16, max(1, triton.next_power_of_2(width) // 512)),
            )
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        count, width = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty((count, width))
        if count:
            grid = (count, triton.cdiv(width, _SILU_COLUMNS))
            rows.silu_mul[grid](gate_up, out, width, COLUMNS=_SILU_COLUMNS)
        return out

    def rope_store(self, kv: torch.Tensor, qkv: torch.Tensor, pages: Pages, rope: Rope) -> None:
        kv_heads, head_dim = kv.shape[2], kv.shape[4]
        group = qkv.shape[1] // head_dim // kv_heads - 2
        nothing = qkv
        store.rope_store[(len(qkv), kv_heads)](
            qkv,
            kv,
            pages.tables,
            pages.row_segments,
            pages.positions,
            nothing if rope.cosines is None else rope.cosines,
            nothing if rope.sines is None else rope.sines,
            nothing if rope.query_norm is None else rope.query_norm,
            nothing if rope.key_norm is None else rope.key_norm,
            qkv.stride(0),
            pages.tables.stride(0),
            kv.stride(0),
            kv.stride(1),
            kv.stride(2),
            rope.eps,
            KV_HEADS=kv_heads,
            GROUP=group,
            GROUP_ROWS=triton.next_power_of_2(group),
            HEAD_DIM=head_dim,
            HALF=triton.next_power_of_2(head_dim // 2),
            BLOCK=kv.shape[3],
            ROTATE=rope.cosines is not None,
            NORM=rope.query_norm is not None,
            num_warps=2,
        )

    def store(self, kv: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pages: Pages) -> None:
        kv_heads, count, head_dim = key.shape
        key, value = (one if one.stride(2) == 1 else one.contiguous() for one in (key, value))
        store.store[(count, kv_heads)](
            key,
            value,
            kv,
            pages.tables,
            pages.row_segments,
            pages.positions,
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            pages.tables.stride(0),
            kv.stride(0),
            kv.stride(1),
            kv.stride(2),
            HEAD_DIM=head_dim,
            DIM=_dims(head_dim),
            BLOCK=kv.shape[3],
            num_warps=1,
        )

    def attend(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, kind: AttentionKind) -> torch.Tensor:
        if query.stride(2) != 1 or query.stride(1) != query.shape[2]:
            query = query.contiguous()
        attend = self._decode if pages.decodes else self._prefill
        return attend(kv, query, pages, kind)

    def _decode(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, kind: AttentionKind) -> torch.Tensor:
        count, heads, head_dim = query.shape
        kv_heads = kv.shape[2]
        group, dims = heads // kv_heads, _dims(head_dim)
        out = torch.empty((count, heads, head_dim), dtype=query.dtype, device=query.device)
        partial = torch.empty((count, heads, SPLITS, head_dim), dtype=torch.float32, device=query.device)
        maxima, sums = torch.empty((2, count, heads, SPLITS), dtype=torch.float32, device=query.device)
        decode.decode_split[(count, kv_heads, SPLITS)](
            query,
            kv,
            pages.tables,
            pages.lengths,
            partial,
            maxima,
            sums,
            query.stride(0),
            pages.tables.stride(0),
            kv.stride(0),
            kv.stride(1),
            kv.stride(2),
            kind.scale,
            kind.softcap or 1.0,
            kind.window or 0,
            GROUP=group,
            GROUP_ROWS=max(16, triton.next_power_of_2(group)),
            HEAD_DIM=head_dim,
            DIM=dims,
            BLOCK=kv.shape[3],
            SPLITS=SPLITS,
            SOFTCAP=kind.softcap is not None,
            WINDOW=kind.window is not None,
            num_warps=4,
            num_stages=self._stages,
        )
        decode.decode_merge[(count, heads)](
            partial, maxima, sums, out, HEAD_DIM=head_dim, DIM=dims, SPLITS=SPLITS, num_warps=2
        )
        return out

    def _prefill(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, kind: AttentionKind) -> torch.Tensor:
        count, heads, head_dim = query.shape
        out = torch.zeros((count, heads, head_dim), dtype=query.dtype, device=query.device)
        prefill.prefill[(len(pages.tiles), heads)](
            query,
            kv,
            pages.tables,
            pages.segments,
            pages.tiles,
            out,
            query.stride(0),
            pages.tables.stride(0),
            kv.stride(0),
            kv.stride(1),
            kv.stride(2),
            kind.scale,
            kind.softcap or 1.0,
            kind.window or 0,
            GROUP=heads // kv.shape[2],
            HEAD_DIM=head_dim,
            DIM=_dims(head_dim),
            BLOCK=kv.shape[3],
            TILE=pages.tile_tokens,
            SOFTCAP=kind.softcap is not None,
            WINDOW=kind.window is not None,
            num_warps=self._warps,
            num_stages=self._stages,
        )
        return out


def _dims(head_dim: int) -> int:
    """`head_dim` as a length that Triton has: a power of two, and at least what a matrix product takes."""
    return max(16, int(triton.next_power_of_2(head_dim)))
