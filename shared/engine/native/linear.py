"""Linear layers by the native kernel: a weight laid out once for it, and the call. See `src/linear.cpp`.

`matrix` makes these where the machine can run them. A row's bits depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from shared.engine.native.calls import LinearCall

PANEL_OUTPUTS = 32
_ALIGNMENT_BYTES = 64

CallLinear = Callable[[LinearCall], int]


class NativeLinear:
    """`x @ weight.T + bias` in bf16, summed in float32. For one thread that calls; `threads` compute."""

    __slots__ = ("_bias", "_call", "_function", "_weight", "inputs", "outputs")

    def __init__(self, function: CallLinear, weight: torch.Tensor, bias: torch.Tensor | None, threads: int = 1) -> None:
        """`function` is `baton_linear` of a library that supports it; `weight` `[outputs, inputs]`, inputs even."""
        self._function = function
        self.outputs, self.inputs = weight.shape
        self._weight = in_panels(weight)
        self._bias = None if bias is None else _padded(bias.float(), self.outputs)
        self._call = LinearCall(
            inputs=self.inputs,
            outputs=self.outputs,
            threads=threads,
            weight=self._weight.data_ptr(),
            bias=None if self._bias is None else self._bias.data_ptr(),
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[rows, inputs]` -> `[rows, outputs]`, contiguous. Any number of rows, any stride apart."""
        rows, inputs = x.shape
        if inputs != self.inputs or x.dtype != torch.bfloat16 or x.stride(1) != 1:
            raise ValueError(f"input of shape {list(x.shape)}, strides {list(x.stride())} and {x.dtype} does not fit")
        out = x.new_empty((rows, self.outputs))
        call = self._call
        call.rows, call.x, call.x_row, call.out = rows, x.data_ptr(), x.stride(0), out.data_ptr()
        if self._function(call):
            raise MemoryError("no memory for the sums of a matrix product")
        return out


def in_panels(weight: torch.Tensor) -> torch.Tensor:
    """`[outputs, inputs]` as `[panels, inputs / 2, PANEL_OUTPUTS, 2]`, the last panel filled up with zeros."""
    outputs, inputs = weight.shape
    pairs = _padded(weight, outputs).view(-1, PANEL_OUTPUTS, inputs // 2, 2)
    panels = pairs.transpose(1, 2).contiguous()
    if panels.data_ptr() % _ALIGNMENT_BYTES:
        raise ValueError(f"memory of a weight is not aligned to {_ALIGNMENT_BYTES} bytes")
    return panels


def _padded(tensor: torch.Tensor, outputs: int) -> torch.Tensor:
    """With zeros behind the first dimension's `outputs`, up to whole panels."""
    missing = -outputs % PANEL_OUTPUTS
    return torch.cat((tensor, tensor.new_zeros((missing, *tensor.shape[1:])))) if missing else tensor
