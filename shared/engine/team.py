"""Several threads for linear layers, one for all else that torch computes on a CPU.

Torch cuts element-wise work into as many parts as there are threads, in the middle of vectors, and computes the rest of
a vector with other code: a number's bits then depend on how many there are beside it. Those of a product do not, if its
rows come by `ROWS_AT_ONCE`; between two numbers of threads they may differ. Knows neither models nor weights;
`torch_engine`, `matrix` and `linear` use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

ROWS_AT_ONCE = {torch.float32: 4, torch.bfloat16: 1}
"""Of more than whole ones of so many rows, the last have other bits, for some numbers of threads and rows."""


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


@contextlib.contextmanager
def made_on(threads: int) -> Iterator[None]:
    """What is made within has so many threads; torch has them too, on this thread, and one afterwards."""
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(1)


def helps_on(device: torch.device) -> bool:
    """Whether what is computed there has a use for one: on a CPU, while torch has several threads."""
    return device.type == "cpu" and torch.get_num_threads() > 1
