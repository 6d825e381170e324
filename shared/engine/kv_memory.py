"""One budget of KV memory, allocated once and lent out to sequences by whole regions.

The arena is cut into blocks of `BLOCK_TOKENS` tokens. A sequence gets one contiguous run of blocks (first fit) for its
whole life, and sees it as `[layers, k|v, kv_heads, capacity, head_dim]`: no growth and no copy per step, no block table
in the kernels. The price is external fragmentation: a long sequence can be refused although the sum of the gaps would
hold it; the gaps close again as their neighbours end.

Knows nothing of sequences, models or threads; `torch_engine` calls it on the event loop's thread alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from shared.core import KvLayout, blocks_of
from shared.engine.contract import KvUsage
from shared.errors import ConfigError, KvExhausted

BLOCK_TOKENS = 64
TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, eq=False)
class KvSpace:
    """One sequence's region.

    `kv` is `[layers, 2, kv_heads, capacity, head_dim]`. `first_row` is the region's place in `KvMemory.rows`, where
    one row is one head's `head_dim` values of one token.
    """

    kv: torch.Tensor
    first_block: int
    blocks: int
    first_row: int

    @property
    def capacity(self) -> int:
        """Tokens it holds."""
        return self.kv.shape[3]


class KvMemory:
    """The arena. `rows` is all of it as `[rows, head_dim]`, for kernels that scatter into many regions at once."""

    def __init__(self, layout: KvLayout, size_bytes: int, device: torch.device) -> None:
        """Raises ConfigError when `size_bytes` does not hold a single block."""
        self._layout = layout
        self._block_bytes = BLOCK_TOKENS * layout.token_bytes
        self._blocks = size_bytes // self._block_bytes
        if self._blocks < 1:
            raise ConfigError(f"KV memory of {size_bytes} bytes holds no block of {self._block_bytes} bytes")
        self._block_rows = BLOCK_TOKENS * layout.layers * 2 * layout.kv_heads
        self.rows = torch.zeros(
            (self._blocks * self._block_rows, layout.head_dim), dtype=TORCH_DTYPES[layout.dtype], device=device
        )
        self._gaps = [(0, self._blocks)]

    @property
    def usage(self) -> KvUsage:
        free = sum(length for _, length in self._gaps)
        return KvUsage(total_bytes=self._blocks * self._block_bytes, free_bytes=free * self._block_bytes)

    def reserve(self, tokens: int) -> KvSpace:
        """A region for at least `tokens` tokens. Raises KvExhausted; then nothing is held."""
        blocks = max(1, blocks_of(tokens, BLOCK_TOKENS))
        for index, (start, length) in enumerate(self._gaps):
            if length >= blocks:
                self._gaps[index : index + 1] = [(start + blocks, length - blocks)] if length > blocks else []
                return self._space(start, blocks)
        raise KvExhausted(
            f"no KV memory for {tokens} tokens: {self.usage.free_bytes} bytes free, in {len(self._gaps)} gaps"
        )

    def release(self, space: KvSpace) -> None:
        """Give a region back, once."""
        merged: list[tuple[int, int]] = []
        for start, length in sorted([*self._gaps, (space.first_block, space.blocks)]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            else:
                merged.append((start, length))
        self._gaps = merged

    def _space(self, first_block: int, blocks: int) -> KvSpace:
        layout = self._layout
        first_row = first_block * self._block_rows
        rows = self.rows[first_row : first_row + blocks * self._block_rows]
        kv = rows.view(layout.layers, 2, layout.kv_heads, blocks * BLOCK_TOKENS, layout.head_dim)
        return KvSpace(kv=kv, first_block=first_block, blocks=blocks, first_row=first_row)


def whole_blocks(tokens: int) -> int:
    """`tokens` rounded up to whole blocks. Kernels may read a region up to there."""
    return blocks_of(tokens, BLOCK_TOKENS) * BLOCK_TOKENS
