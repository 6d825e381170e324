"""A linear layer's weight, laid out once as what multiplies by it wants it: native kernel, library, or plain torch.

Knows no model; `llama_weights` makes one for each matrix of a layer.
"""

from __future__ import annotations

from typing import Protocol

import torch

from shared.engine import linear, team
from shared.engine.native import Kernels
from shared.engine.team import Team


class Matrix(Protocol):
    """`x @ weight.T + bias`."""

    @property
    def inputs(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[rows, inputs]` -> `[rows, outputs]`. Rows must follow the runner's `RowRule`."""


def matrix(weight: torch.Tensor, bias: torch.Tensor | None, kernels: Kernels | None = None) -> Matrix:
    """Of `weight` `[outputs, inputs]`; `kernels` are those that multiply by its kind.

    Without them it is computed on as many threads as torch has now.
    """
    if kernels is not None:
        return kernels.linear(weight, bias)
    packs = linear.can_pack(weight.dtype, weight.device)
    product = _LibraryMatrix(weight, bias) if packs else _PlainMatrix(weight, bias)
    return _SharedMatrix(product) if team.helps_on(weight.device) else product


class _SharedMatrix:
    """On several threads."""

    __slots__ = ("_product", "_team", "inputs", "outputs")

    def __init__(self, product: Matrix) -> None:
        self.inputs, self.outputs = product.inputs, product.outputs
        self._product, self._team = product, Team()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with self._team:
            return self._product(x)


class _LibraryMatrix:
    """Prepacked for torch's bf16 library."""

    __slots__ = ("_bias", "_packed", "inputs", "outputs")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        self._bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return result


class _PlainMatrix:
    """As it is in the file."""

    __slots__ = ("_bias", "_weight", "inputs", "outputs")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self._weight, self._bias)
