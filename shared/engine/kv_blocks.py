"""Which blocks of KV memory a sequence has: those it found filled already, and those it fills itself.

A whole block that is filled is named by what it holds: its tokens, all tokens before them, and a salt. A sequence that
begins alike, with the same salt, finds it and shares it, while others hold it or after. Names are chained BLAKE2b
digests (RFC 7693) of 16 bytes: whoever cannot break it cannot make a prompt that finds another's blocks.

Knows no memory and no engine; both engines lend their blocks through this.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from shared.core import blocks_of
from shared.engine.block_pool import BlockPool

NAME_BYTES = 16


class SequenceBlocks:
    """The blocks of one sequence, in order. The first `cached_tokens` tokens were in them when it was opened."""

    __slots__ = ("cached_tokens", "last_name", "named", "numbers")

    def __init__(self, numbers: Sequence[int], named: int, last_name: bytes, cached_tokens: int) -> None:
        self.numbers = tuple(numbers)
        self.named = named
        self.last_name = last_name
        self.cached_tokens = cached_tokens


class KvBlocks:
    """Lends blocks of `block_tokens` tokens. Without `prefixes` nothing is ever found again."""

    def __init__(self, count: int, block_tokens: int, *, prefixes: bool) -> None:
        self._pool = BlockPool(count)
        self._block_tokens = block_tokens
        self._prefixes = prefixes

    @property
    def count(self) -> int:
        return self._pool.count

    @property
    def free(self) -> int:
        """Blocks a new sequence could get."""
        return self._pool.free

    @property
    def kept(self) -> int:
        """Blocks of these whose content can still be found."""
        return self._pool.kept

    def open(self, token_ids: Sequence[int], capacity_tokens: int, salt: str) -> SequenceBlocks:
        """Room for `capacity_tokens` tokens of a sequence that begins with `token_ids`.

        At least one of these is never cached: its logits are wanted. Raises KvExhausted; then nothing is held.
        """
        found: list[int] = []
        last_name = first_name(salt)
        if self._prefixes:
            for start in range(0, len(token_ids) - self._block_tokens, self._block_tokens):
                name = next_name(last_name, token_ids[start : start + self._block_tokens])
                block = self._pool.find(name)
                if block is None:
                    break
                found.append(block)
                last_name = name
        # Held before the rest is taken, which might else be these very blocks.
        for block in found:
            self._pool.hold(block)
        try:
            taken = self._pool.take(max(1, blocks_of(capacity_tokens, self._block_tokens)) - len(found))
        except BaseException:
            self._pool.give_back(found)
            raise
        return SequenceBlocks([*found, *taken], len(found), last_name, len(found) * self._block_tokens)

    def fill(self, blocks: SequenceBlocks, token_ids: Sequence[int], tokens: int) -> None:
        """The first `tokens` of `token_ids` are in `blocks`, and stay: others may find them."""
        if not self._prefixes:
            return
        while (start := blocks.named * self._block_tokens) + self._block_tokens <= tokens:
            blocks.last_name = next_name(blocks.last_name, token_ids[start : start + self._block_tokens])
            self._pool.name(blocks.numbers[blocks.named], blocks.last_name)
            blocks.named += 1

    def close(self, blocks: SequenceBlocks) -> None:
        """Give all of them back, once."""
        self._pool.give_back(blocks.numbers)


def first_name(salt: str) -> bytes:
    """What the names of all sequences with this salt begin from."""
    return blake2b(salt.encode(), digest_size=NAME_BYTES).digest()


def next_name(before: bytes, token_ids: Sequence[int]) -> bytes:
    """The name of a block of `token_ids` behind the block called `before`."""
    return blake2b(before + array("i", token_ids).tobytes(), digest_size=NAME_BYTES).digest()
