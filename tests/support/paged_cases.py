"""Sequences in a paged arena whose unused memory is NaN, and calls over them: what kernel tests compare on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared.engine.cuda.pages import Pages, decode_pages, pages_of
from shared.engine.packed import Segment

BLOCK = 64


@dataclass(frozen=True, slots=True)
class Space:
    """Stands in for `KvSpace`."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    layers: int = 2


def arena(shape: Shape, blocks: int, device: torch.device) -> torch.Tensor:
    """`[layers, blocks, 2, kv_heads, BLOCK, head_dim]` of NaN: reading what nobody wrote is seen."""
    size = (shape.layers, blocks, 2, shape.kv_heads, BLOCK, shape.head_dim)
    return torch.full(size, float("nan"), dtype=shape.dtype, device=device)


def scattered(lengths: list[int], generator: torch.Generator) -> tuple[list[Space], int]:
    """Room for sequences of `lengths` tokens in blocks out of order, and how many blocks there are in all."""
    needed = [-(-length // BLOCK) for length in lengths]
    total = sum(needed) + 3
    order = torch.randperm(total, generator=generator).tolist()
    return [Space(tuple(order.pop() for _ in range(count))) for count in needed], total


def fill(where: torch.Tensor, space: Space, tokens: int, generator: torch.Generator) -> None:
    """Random keys and values of the first `tokens` tokens, in all layers."""
    for token in range(tokens):
        at = where[:, space.numbers[token // BLOCK], :, :, token % BLOCK]
        at.copy_(torch.randn(at.shape, generator=generator))


def slices(cuts: list[tuple[Space, int, int]], filling: int, tile_tokens: int, device: torch.device) -> Pages:
    """Slices `(space, start, stop)` laid end to end, then `filling` rows."""
    segments, row = [], 0
    for space, start, stop in cuts:
        segments.append(Segment(space, start, stop - start, row))  # type: ignore[arg-type]
        row += stop - start
    return pages_of(segments, row + filling, device, tile_tokens)


def steps(spaces: list[Space], lengths: list[int], filling: int, device: torch.device) -> Pages:
    """One new token of each sequence, the last of its `lengths`, then `filling` rows."""
    widest = max(len(space.numbers) for space in spaces)
    tables = [[*space.numbers, *[0] * (widest - len(space.numbers))] for space in spaces] + [[0] * widest] * filling
    lengths = [*lengths, *[0] * filling]
    return decode_pages(
        *(torch.tensor(one, dtype=torch.int32, device=device) for one in (tables, [n - 1 for n in lengths], lengths))
    )
