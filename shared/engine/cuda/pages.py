"""Where the tokens of one forward pass lie in the paged arena, as device tensors: what the kernels read.

Built once per pass; every layer of it uses the same. Knows no sequence and no kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shared.engine.packed import Segment


@dataclass(frozen=True, slots=True)
class Pages:
    """One pass. All int32, all on one device.

    `tables` `[segments, blocks]` lists each segment's blocks in order. `row_segments` and `positions` `[rows]` say what
    token a row is; filling has position -1. `segments` is `[segments, 3]`: position of the first token, tokens, first
    row. `tiles` is `[tiles, 2]`: segment, first token within it; each tile has up to `tile_tokens` rows.

    A decode pass has no tiles: row i is the one new token of segment i, which sees `lengths[i]` tokens; 0 is filling.
    """

    tables: torch.Tensor
    row_segments: torch.Tensor
    positions: torch.Tensor
    lengths: torch.Tensor
    segments: torch.Tensor
    tiles: torch.Tensor
    tile_tokens: int

    @property
    def decodes(self) -> bool:
        return self.tile_tokens == 0


def pages_of(segments: Sequence[Segment], rows: int, device: torch.device, tile_tokens: int) -> Pages:
    """The pages of packed slices of `segments`, in a call of `rows` rows, filling included."""
    numbers = [one.space.numbers for one in segments]
    widest = max(map(len, numbers))
    tables = [[*row, *[0] * (widest - len(row))] for row in numbers]
    row_segments, positions = [0] * rows, [-1] * rows
    tiles: list[tuple[int, int, int]] = []
    for index, one in enumerate(segments):
        row_segments[one.row : one.row + one.tokens] = [index] * one.tokens
        positions[one.row : one.row + one.tokens] = range(one.start, one.stop)
        tiles += [(one.start + first, index, first) for first in range(0, one.tokens, tile_tokens)]
    # Tiles that see most go first, so that no long one is left for the end.
    tiles.sort(reverse=True)
    return Pages(
        tables=_table(tables, device),
        row_segments=_table(row_segments, device),
        positions=_table(positions, device),
        lengths=_table([one.stop for one in segments], device),
        segments=_table([(one.start, one.tokens, one.row) for one in segments], device),
        tiles=_table([(index, first) for _, index, first in tiles], device),
        tile_tokens=tile_tokens,
    )


def decode_pages(tables: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor) -> Pages:
    """The pages of one new token of each of `tables`' rows, from tensors that stay where they are."""
    rows = torch.arange(len(positions), dtype=torch.int32, device=positions.device)
    nothing = rows[:0]
    return Pages(tables, rows, positions, lengths, nothing, nothing, tile_tokens=0)


def _table(values: Sequence[object], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32).to(device)
