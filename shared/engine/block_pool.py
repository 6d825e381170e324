"""Numbers of equal blocks: free, held by one sequence or by several, or kept.

A kept block is free as well, but what it holds has a name and can be found again until its room is needed; the one that
was let go of first is given away first. Knows no memory, no tokens and no threads; `kv_blocks` calls it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from shared.errors import KvExhausted


class BlockPool:
    """Blocks `0 .. count - 1`."""

    def __init__(self, count: int) -> None:
        self._holders = [0] * count
        self._blank = list(reversed(range(count)))
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._by_name: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}

    @property
    def count(self) -> int:
        """All blocks."""
        return len(self._holders)

    @property
    def free(self) -> int:
        """Blocks that `take` could give, kept ones included."""
        return len(self._blank) + len(self._kept)

    @property
    def kept(self) -> int:
        """Free blocks whose content can still be found."""
        return len(self._kept)

    def take(self, count: int) -> list[int]:
        """Hold `count` blocks, whatever is in them. Raises KvExhausted; then nothing is held."""
        if count > self.free:
            raise KvExhausted(f"no KV memory for {count} blocks: {self.free} of {self.count} are free")
        taken = [self._blank.pop() if self._blank else self._forget_oldest() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def find(self, name: bytes) -> int | None:
        """The block whose content is called `name`."""
        return self._by_name.get(name)

    def hold(self, block: int) -> None:
        """Hold a block that was found, beside others who hold it."""
        self._kept.pop(block, None)
        self._holders[block] += 1

    def name(self, block: int, name: bytes) -> None:
        """The held `block` will not change any more: it is called `name`, unless another block is already."""
        if name not in self._by_name and block not in self._names:
            self._by_name[name] = block
            self._names[block] = name

    def give_back(self, blocks: Sequence[int]) -> None:
        """Let go of blocks, once for each time they were taken or held. The last of them will be given away first."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._names:
                self._kept[block] = None
            else:
                self._blank.append(block)

    def _forget_oldest(self) -> int:
        block, _ = self._kept.popitem(last=False)
        del self._by_name[self._names.pop(block)]
        return block
