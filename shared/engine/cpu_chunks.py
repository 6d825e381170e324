"""What the two halves of CPU attention must agree on, so that a row gets the same bits in both."""

from __future__ import annotations

from collections.abc import Sequence

import torch

MIN_ROWS = {torch.bfloat16: 1, torch.float32: 4}
"""Fewer rows than these go to another matrix kernel, with other bits."""

CHUNK_TOKENS = {torch.bfloat16: 512, torch.float32: 128}
"""Values are summed in chunks of this length: the longest the library never splits by the number of rows."""


def softcapped(scores: torch.Tensor, softcap: float) -> torch.Tensor:
    """`softcap * tanh(scores / softcap)`, computed in float32."""
    return scores.float().div_(softcap).tanh_().mul_(softcap).to(scores.dtype)


def sum_in_order(products: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of the chunks' products, first to last, in float32."""
    if len(products) == 1:
        return products[0]
    total = products[0].float()
    for product in products[1:]:
        total += product
    return total.to(products[0].dtype)
