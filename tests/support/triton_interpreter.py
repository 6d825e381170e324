"""Triton's interpreter with bfloat16 as a GPU has it.

numpy has no bfloat16: the interpreter keeps it as 16-bit integers, cuts it off where a GPU rounds to nearest even, and
multiplies matrices of it as integers. Here both are put right, and so is what Triton 3.6 asks of numpy that numpy no
longer does. Import this before any kernel is defined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import triton.language as tl
from triton.runtime import interpreter

_CAST = interpreter.InterpreterBuilder.cast_impl
_PATCH_TENSOR = interpreter._patch_lang_tensor


def _widened(data: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (data.astype(np.uint32) << 16).view(np.float32)


def _rounded(data: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = np.ascontiguousarray(data).view(np.uint32)
    even = bits + 0x7FFF + ((bits >> 16) & 1)
    kept = np.where(np.isnan(data), np.uint32(0x7FC00000), even)
    return (kept >> 16).astype(np.uint16).reshape(np.shape(data))


def _cast(self: Any, source: Any, target: Any) -> Any:
    pair = source.dtype.scalar, target.scalar
    if pair == (tl.bfloat16, tl.float32):
        return interpreter.TensorHandle(_widened(source.data), tl.float32)
    if pair == (tl.float32, tl.bfloat16):
        return interpreter.TensorHandle(_rounded(source.data), tl.bfloat16)
    return _CAST(self, source, target)


def _dot(_self: Any, a: Any, b: Any, d: Any, *_others: Any) -> Any:
    a_wide, b_wide = (_widened(one.data) if one.dtype.scalar == tl.bfloat16 else one.data for one in (a, b))
    # In float64, so that a row's bits do not depend on where in the tile numpy's library has it.
    product = np.matmul(a_wide, b_wide, dtype=np.float64) + d.data
    return interpreter.TensorHandle(product.astype(np.float32), tl.float32)


def _fp_to_fp(self: Any, source: Any, target: Any, _rounding: Any) -> Any:
    return _cast(self, source, target)


def _patch_tensor(tensor: Any, scope: Any) -> None:
    """A tensor of one number, whatever its shape, can be the end of a range."""
    _PATCH_TENSOR(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))


interpreter._patch_lang_tensor = _patch_tensor
interpreter.InterpreterBuilder.cast_impl = _cast
interpreter.InterpreterBuilder.create_dot = _dot
interpreter.InterpreterBuilder.create_fp_to_fp = _fp_to_fp
