"""Several threads for matrix products, one for all else that torch computes on a CPU.

Torch cuts element-wise work into as many parts as there are threads, in the middle of vectors, and computes the rest of
a vector with other code: a number's bits then depend on how many there are. Products do not, within a `RowRule`.
"""

from __future__ import annotations

import torch


class Team:
    """As many threads as torch had when this was made, for what is computed within. Costs less than a microsecond."""

    __slots__ = ("_count", "_outside")

    def __init__(self) -> None:
        self._count = self._outside = torch.get_num_threads()

    def __enter__(self) -> None:
        self._outside = torch.get_num_threads()
        torch.set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._outside)


def is_needed(tensor: torch.Tensor) -> bool:
    """Whether products with `tensor` have a use for one."""
    return tensor.device.type == "cpu" and torch.get_num_threads() > 1
