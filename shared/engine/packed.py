"""One forward pass over tokens of many sequences, laid end to end with no padding between them.

A runner takes a `PackedBatch` and returns logits; attention kernels walk its segments. Knows tensors, not sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shared.engine.contract import OnLayer
from shared.engine.kv_memory import KvSpace


def tell_nobody(_layers: int) -> None:
    """An `OnLayer`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `[row, row + tokens)` of the packed call are tokens `[start, start + tokens)` of the sequence in `space`."""

    space: KvSpace
    start: int
    tokens: int
    row: int

    @property
    def stop(self) -> int:
        return self.start + self.tokens


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """`input_ids` and `position_ids` are `[1, rows]`, `logit_rows` the rows whose logits are wanted.

    Rows after the last segment, and `logit_rows` after the first `logits`, are filling: computed and thrown away. The
    runner tells `on_layer` how many layers' KV is written, after each.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    logit_rows: torch.Tensor
    logits: int
    segments: tuple[Segment, ...]
    on_layer: OnLayer = tell_nobody


@dataclass(frozen=True, slots=True)
class Piece:
    """What goes into a batch: `token_ids` of a sequence from position `start`; `wants_logits` of the last of them."""

    space: KvSpace
    token_ids: Sequence[int]
    start: int
    wants_logits: bool


@dataclass(frozen=True, slots=True)
class RowRule:
    """How many rows a call must have for bits that do not depend on that number: at least `minimum`, by `multiple`."""

    minimum: int
    multiple: int

    def missing(self, rows: int) -> int:
        """How many rows of filling `rows` rows need. None at all need none."""
        if not rows:
            return 0
        return -(-max(rows, self.minimum) // self.multiple) * self.multiple - rows


def pack(pieces: Sequence[Piece], rule: RowRule, device: torch.device, on_layer: OnLayer = tell_nobody) -> PackedBatch:
    """Lay `pieces` end to end, and fill up rows and wanted logits by `rule`."""
    token_ids: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    wanted: list[int] = []
    for piece in pieces:
        tokens = len(piece.token_ids)
        segments.append(Segment(piece.space, piece.start, tokens, row=len(token_ids)))
        token_ids += piece.token_ids
        positions += range(piece.start, piece.start + tokens)
        if piece.wants_logits:
            wanted.append(len(token_ids) - 1)
    logits = len(wanted)
    wanted += [0] * rule.missing(logits)
    filling = [0] * rule.missing(len(token_ids))
    return PackedBatch(
        input_ids=torch.tensor([token_ids + filling], device=device),
        position_ids=torch.tensor([positions + filling], device=device),
        logit_rows=torch.tensor(wanted, dtype=torch.int64, device=device),
        logits=logits,
        segments=tuple(segments),
        on_layer=on_layer,
    )
