"""What the device computes between matrix products: one set of functions, in Triton and in plain torch.

`triton_kernels` runs on the GPU (and in Triton's interpreter, for tests), `torch_kernels` anywhere, slowly, as the
reference. `ops` and `attention` call either. `kv` is one layer of the arena as `views` has it, `[blocks, 2
(k|v), kv_heads, BLOCK_TOKENS, head_dim]`: the last two dimensions contiguous, the others any stride apart.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch

from shared.engine.attention import AttentionKind
from shared.engine.cuda.pages import Pages


@dataclass(frozen=True, slots=True)
class Rope:
    """How queries and keys of one layer are prepared.

    `cosines` and `sines` are `[positions, head_dim / 2]`, None where the layer turns nothing; `query_norm` and
    `key_norm` `[head_dim]` are RMS norms of each head before that, in models that have them.
    """

    cosines: torch.Tensor | None
    sines: torch.Tensor | None
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    eps: float = 0.0


class PagedKernels(abc.ABC):
    """All tensors are on one device and of one dtype, float32 or bfloat16, but for the int32 ones of `Pages`."""

    @property
    @abc.abstractmethod
    def tile_tokens(self) -> int:
        """Query rows of one prefill tile: what `pages_of` shall cut slices by."""

    @abc.abstractmethod
    def add_rms_norm(
        self, hidden: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """`hidden += update` in place, then the RMS norm of each row of `[rows, width]`."""

    @abc.abstractmethod
    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """`silu(gate) * up`: `[rows, 2 * width]`, gates first -> `[rows, width]`."""

    @abc.abstractmethod
    def rope_store(self, kv: torch.Tensor, qkv: torch.Tensor, pages: Pages, rope: Rope) -> None:
        """Prepare queries in place, and prepare and write keys and values of `qkv` `[rows, (heads + 2 * kv_heads) *
        head_dim]`. Filling rows are left alone, and written nowhere."""

    @abc.abstractmethod
    def store(self, kv: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pages: Pages) -> None:
        """Write `[kv_heads, rows, head_dim]` as they are. Filling rows are written nowhere."""

    @abc.abstractmethod
    def attend(self, kv: torch.Tensor, query: torch.Tensor, pages: Pages, kind: AttentionKind) -> torch.Tensor:
        """Causal attention of `query` `[rows, heads, head_dim]`, rows any stride apart: a new tensor of that shape.

        Filling rows come out as zeros.
        """
