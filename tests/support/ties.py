"""When another token than the reference's is right as well: the two best logits are a tie within rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def assert_same_or_tied(
    prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int], reference: Any, exact: Any
) -> None:
    """Equal tokens, up to where the reference's two best logits are a tie within its own rounding; behind that, any.

    `reference` made `theirs` in bf16, `exact` is the same weights in float32. Their largest difference at the parting
    is what rounding does to one logit there; a gap of two of those says nothing about which token is right.
    """
    pairs = enumerate(zip(ours, theirs, strict=False))
    parting = next((index for index, (one, other) in pairs if one != other), None)
    if parting is None:
        assert len(ours) == len(theirs)
        return
    ids = torch.tensor([[*prompt, *theirs[:parting]]])
    with torch.inference_mode():
        logits = reference(ids).logits[0, -1].float()
        rounding = (logits - exact(ids).logits[0, -1]).abs().max().item()
    gap = (logits[theirs[parting]] - logits[ours[parting]]).item()
    assert gap <= 2 * rounding, f"token {parting}: {ours[parting]} for {theirs[parting]}, {gap} > 2 * {rounding}"
