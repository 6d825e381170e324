"""One budget of KV memory, allocated once and lent out to sequences in blocks of `BLOCK_TOKENS` tokens.

A sequence gets all its blocks when it is opened, wherever they lie: no growth and no copy per step, no gaps that hold
nothing. Blocks that hold the beginning of a prompt are shared by the sequences that begin with it (`kv_blocks`).

Knows nothing of sequences' tokens beyond that, of models or of threads; `torch_engine` calls it on the event loop's
thread alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shared.core import KvLayout, blocks_of
from shared.engine.contract import KvUsage
from shared.engine.kv_blocks import KvBlocks, SequenceBlocks
from shared.errors import ConfigError

BLOCK_TOKENS = 64
TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, eq=False)
class KvSpace:
    """One sequence's share of the arena.

    `arena` is `[layers, kv_heads, blocks, k|v, BLOCK_TOKENS, head_dim]`; token `t` lies in block `numbers[t //
    BLOCK_TOKENS]`, at `t % BLOCK_TOKENS`. `addresses` has where each of these blocks begins in the first head
    of the first layer, for native kernels.
    """

    arena: torch.Tensor
    blocks: SequenceBlocks
    addresses: npt.NDArray[np.int64]
    table_address: int

    @property
    def numbers(self) -> tuple[int, ...]:
        return self.blocks.numbers

    @property
    def cached_tokens(self) -> int:
        """Tokens whose KV was here when the space was reserved. Never to be written to."""
        return self.blocks.cached_tokens

    @property
    def capacity(self) -> int:
        """Tokens it holds."""
        return len(self.blocks.numbers) * BLOCK_TOKENS

    def gather(self, layer: int, count: int) -> torch.Tensor:
        """A copy of the first `count` blocks of one layer: `[2, kv_heads, tokens, head_dim]`."""
        blocks = self.arena[layer][:, list(self.numbers[:count])]
        kv_heads, _, two, _, head_dim = blocks.shape
        return blocks.permute(2, 0, 1, 3, 4).reshape(two, kv_heads, -1, head_dim)


class KvMemory:
    """The arena: `[layers, kv_heads, blocks, k|v, BLOCK_TOKENS, head_dim]`."""

    def __init__(self, layout: KvLayout, size_bytes: int, device: torch.device, *, prefixes: bool = False) -> None:
        """With `prefixes`, what sequences leave behind is found again. Raises ConfigError for less than a block."""
        self._block_bytes = BLOCK_TOKENS * layout.token_bytes
        count = size_bytes // self._block_bytes
        if count < 1:
            raise ConfigError(f"KV memory of {size_bytes} bytes holds no block of {self._block_bytes} bytes")
        shape = (layout.layers, layout.kv_heads, count, 2, BLOCK_TOKENS, layout.head_dim)
        self.arena = torch.zeros(shape, dtype=TORCH_DTYPES[layout.dtype], device=device)
        self._blocks = KvBlocks(count, BLOCK_TOKENS, prefixes=prefixes)

    @property
    def usage(self) -> KvUsage:
        blocks = self._blocks
        return KvUsage(
            total_bytes=blocks.count * self._block_bytes,
            free_bytes=blocks.free * self._block_bytes,
            kept_bytes=blocks.kept * self._block_bytes,
        )

    def reserve(self, tokens: int, prompt_ids: Sequence[int] = (), salt: str = "") -> KvSpace:
        """Room for at least `tokens` tokens of a sequence that begins with `prompt_ids`.

        Raises KvExhausted; then nothing is held.
        """
        blocks = self._blocks.open(prompt_ids, tokens, salt)
        base, stride = self.arena.data_ptr(), self.arena.stride(2) * self.arena.element_size()
        addresses = base + np.array(blocks.numbers, dtype=np.int64) * stride
        return KvSpace(self.arena, blocks, addresses, addresses.ctypes.data)

    def fill(self, space: KvSpace, token_ids: Sequence[int], tokens: int) -> None:
        """The first `tokens` of `token_ids` are in `space` and stay so: others may share them."""
        self._blocks.fill(space.blocks, token_ids, tokens)

    def release(self, space: KvSpace) -> None:
        """Give it back, once."""
        self._blocks.close(space.blocks)


def whole_blocks(tokens: int) -> int:
    """`tokens` rounded up to whole blocks. Kernels may read a sequence up to there."""
    return blocks_of(tokens, BLOCK_TOKENS) * BLOCK_TOKENS
