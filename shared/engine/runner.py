"""What computes logits: the general path over transformers' own modules, or a fused one for the models it knows."""

from __future__ import annotations

from typing import Protocol

import torch

from shared.engine.cuda.kernels import PagedKernels
from shared.engine.native import Kernels
from shared.engine.packed import PackedBatch, RowRule

AnyKernels = Kernels | PagedKernels
"""Native ones for a CPU, paged ones for a GPU: what stands in for torch calls between matrix products."""


class Runner(Protocol):
    """One loaded model."""

    @property
    def row_rule(self) -> RowRule:
        """How batches must be filled up."""

    @property
    def own_products(self) -> bool:
        """Whether it multiplies by native kernels, whose roundings are not the library's."""

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        """Write the KV of all segments, and return `[batch.logits, vocab]`."""
