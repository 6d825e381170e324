"""What a decode step reads, in device tensors that stay where they are: a CUDA graph knows them by address.

The next step of the same sequences needs nothing from the host: its tokens are what the last step drew, its positions
one more, and both are moved on by the device while the host waits for the tokens. Any other step is staged: written to
pinned memory and copied. Knows rows, not what computes them; `steps` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from shared.engine.cuda.batch import PagedBatch
from shared.engine.cuda.pages import decode_pages
from shared.engine.cuda.place import wait_for
from shared.engine.kv_memory import KvSpace
from shared.engine.sampling import SamplerState

FILLING = -1


class Decoding(Protocol):
    """A sequence that decodes: the KV of all its tokens but the last is there."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def space(self) -> KvSpace: ...

    @property
    def sampler(self) -> SamplerState: ...


class StepInputs:
    """Room for `rows` sequences of up to `blocks` blocks. Rows of filling have position -1, and are written nowhere."""

    def __init__(self, rows: int, blocks: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions = torch.full((rows,), FILLING, dtype=torch.int32, device=device)
        self._tables = torch.zeros((rows, blocks), dtype=torch.int32, device=device)
        self._host_ids = torch.zeros(rows, dtype=torch.int64, pin_memory=pinned)
        self._host_positions = torch.full((rows,), FILLING, dtype=torch.int32, pin_memory=pinned)
        self._host_tables = torch.zeros((rows, blocks), dtype=torch.int32, pin_memory=pinned)
        self._device = device
        self._staged: list[tuple[Decoding, int]] | None = None

    def ready(self, sequences: Sequence[Decoding]) -> None:
        """Make the first rows the next step of `sequences`, and all others filling.

        Raises ValueError for a sequence with no room left; then nothing has changed.
        """
        for one in sequences:
            if len(one.tokens) > one.space.capacity:
                raise ValueError(f"{len(one.tokens)} tokens exceed a capacity of {one.space.capacity}")
        if not self._follows(sequences):
            self._stage(sequences)

    def batch(self, size: int) -> PagedBatch:
        """The first `size` rows. Reads the tensors when it is computed, not now."""
        positions = self._positions[:size]
        rows = torch.arange(size, device=self._device)
        return PagedBatch(
            input_ids=self._ids[None, :size],
            position_ids=positions.clamp(min=0).long()[None],
            logit_rows=rows,
            logits=size,
            segments=(),
            pages=decode_pages(self._tables[:size], positions, positions + 1),
        )

    def advance(self, token_ids: torch.Tensor) -> None:
        """The step has drawn `token_ids` (on the device, one for each sequence): get ready for the one after it."""
        self._ids[: len(token_ids)].copy_(token_ids)
        self._positions.add_((self._positions >= 0).int())
        self._staged = [(sequence, tokens + 1) for sequence, tokens in self._staged or ()]

    def forget(self) -> None:
        """Whatever the rows hold, the next step is staged."""
        self._staged = None

    def _follows(self, sequences: Sequence[Decoding]) -> bool:
        staged = self._staged
        if staged is None or len(staged) != len(sequences):
            return False
        return all(
            one is known and len(one.tokens) == tokens for one, (known, tokens) in zip(sequences, staged, strict=True)
        )

    def _stage(self, sequences: Sequence[Decoding]) -> None:
        self._staged = None
        # An earlier copy may not have read the pinned memory yet, if the step it was for failed.
        wait_for(self._device)
        count = len(sequences)
        self._host_ids.numpy()[:count] = [one.tokens[-1] for one in sequences]
        positions, tables = self._host_positions.numpy(), self._host_tables.numpy()
        positions[:count] = [len(one.tokens) - 1 for one in sequences]
        positions[count:] = FILLING
        for row, one in enumerate(sequences):
            tables[row, : len(one.space.numbers)] = one.space.numbers
        self._ids.copy_(self._host_ids, non_blocking=True)
        self._positions.copy_(self._host_positions, non_blocking=True)
        self._tables[:count].copy_(self._host_tables[:count], non_blocking=True)
        self._staged = [(one, len(one.tokens)) for one in sequences]
