"""The native half of `shared.kv.int8`: heads of cells to int8 and back, at the speed of memory, on numpy's arrays.

bfloat16 cells are uint16 to numpy. All arrays are contiguous and of the shapes that `Int8Codec` makes.
"""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from shared.engine.native.calls import QuantiseCall, RestoreCall

_BF16 = {np.dtype(np.uint16): 1, np.dtype(np.float32): 0}


class Int8Kernels:
    """Both functions release the GIL. Raises KeyError for cells that are neither bfloat16 nor float32."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._quantise = library.baton_quantise
        self._restore = library.baton_restore

    def quantise(
        self, cells: npt.NDArray[np.generic], scales: npt.NDArray[np.float32], small: npt.NDArray[np.int8]
    ) -> None:
        """`cells` `[heads, run]` into `small` of the same shape and `scales` `[heads]`."""
        heads, run = cells.shape
        self._quantise(
            QuantiseCall(_BF16[cells.dtype], heads, run, cells.ctypes.data, scales.ctypes.data, small.ctypes.data)
        )

    def restore(
        self, small: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], cells: npt.NDArray[np.generic]
    ) -> None:
        """The way back."""
        heads, run = small.shape
        self._restore(
            RestoreCall(_BF16[cells.dtype], heads, run, scales.ctypes.data, small.ctypes.data, cells.ctypes.data)
        )
