"""The kernels in plain torch calls: the reference that the Triton ones are held to. See `kernels.PagedKernels`.

Runs on any device, one segment after the other, in float32 inside; for tests, not for serving.
"""

from __future__ import annotations

import torch

from shared.engine.attention import AttentionKind
from shared.engine.cuda.kernels import PagedKernels, Rope
from shared.engine.cuda.pages import Pages
from shared.engine.llama_ops import rms_norm


class TorchKernels(PagedKernels):
    """See `kernels.PagedKernels`."""

    @property
    def tile_tokens(self) -> int:
        return 128

    def add_rms_norm(
        self, hidden: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        return rms_norm(hidden if update is None else hidden.add_(update), weight, eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    def rope_store(self, kv: torch.Tensor, qkv: torch.Tensor, pages: Pages, rope: Rope) -> None:
        kv_heads, head_dim = kv.shape[2], kv.shape[4]
        heads = qkv.shape[1] // head_dim - 2 * kv_heads
        query, key, value = torch.split(qkv.view(len(qkv), -1, head_dim), [heads, kv_heads, kv_heads], dim=1)
        real = pages.positions >= 0
        query[real] = _prepared(query[real], rope, rope.query_norm, pages.positions[real])
        key[real] = _prepared(key[real], rope, rope.key_norm, pages.positions[real])
        self.store(kv, key.transpose(0, 1), value.transpose(0, 1), pages)

    def store(self, kv: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pages: Pages) -> None:
        real = pages.positions >= 0
        positions, segments = pages.positions[real].long(), pages.row_segments[real].long()
        block_tokens = kv.shape[3]
        blocks = pages.tables[segments, positions // block_tokens].long()
        kv[blocks, :, :, positions % block_tokens] = torch.stack((key, value))[:, :, real].permute(2, 0, 1, 3)

    def attend(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, kind: AttentionKind) -> torch.Tensor:
        out = query.new_zeros(query.shape)
        for index, (start, tokens, row) in enumerate(_slices(pages)):
            if tokens:
                rows = slice(row, row + tokens)
                keys, values = _cached(kv, pages.tables[index], start + tokens)
                out[rows] = _attend(query[rows], keys, values, start, kind)
        return out


def _slices(pages: Pages) -> list[tuple[int, int, int]]:
    """Per segment: position of its first token, tokens, first row."""
    if not pages.decodes:
        return [(start, tokens, row) for start, tokens, row in pages.segments.tolist()]
    return [(max(0, length - 1), min(1, length), row) for row, length in enumerate(pages.lengths.tolist())]


def _cached(kv: torch.Tensor, table: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a sequence's first `tokens` tokens, each `[kv_heads, tokens, head_dim]`."""
    blocks = table[: -(-tokens // kv.shape[3])].long()
    keys, values = kv[blocks].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :tokens]
    return keys, values


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int, kind: AttentionKind
) -> torch.Tensor:
    """`query` is `[rows, heads, head_dim]`, its first row at position `start`; so is the result."""
    rows, heads, head_dim = query.shape
    grouped = query.float().view(rows, len(keys), heads // len(keys), head_dim)
    scores = torch.einsum("rhgd,htd->hgrt", grouped, keys.float()) * kind.scale
    if kind.softcap is not None:
        scores = kind.softcap * torch.tanh(scores / kind.softcap)
    positions = torch.arange(start, start + rows, device=query.device)[:, None]
    age = positions - torch.arange(keys.shape[1], device=query.device)
    hidden = (age < 0) if kind.window is None else (age < 0) | (age >= kind.window)
    weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
    attended = torch.einsum("hgrt,htd->rhgd", weights, values.float())
    return attended.flatten(1, 2).to(query.dtype)


def _prepared(x: torch.Tensor, rope: Rope, norm: torch.Tensor | None, positions: torch.Tensor) -> torch.Tensor:
    """Norm and turn `[rows, heads, head_dim]`."""
    if norm is not None:
        x = rms_norm(x, norm, rope.eps)
    if rope.cosines is None or rope.sines is None:
        return x
    cosines, sines = (table[positions.long()][:, None].repeat(1, 1, 2) for table in (rope.cosines, rope.sines))
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines
