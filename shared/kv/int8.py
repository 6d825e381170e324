"""Half the bytes, lossy: every cell as an int8, with one float32 scale per layer, k|v and head of a chunk.

Payload: the scales `[layer, k|v, kv_head]`, little-endian, then the cells `[layer, k|v, kv_head, token, head_dim]`. A
cell is its int8 times its scale; a scale is the largest cell of its head by magnitude over 127, so that no cell is off
by more than half a scale. Whole numbers are rounded to even.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from shared.errors import HandoffFailed, ProtocolError
from shared.kv.cells import LARGEST, Bytes, empty, narrow, raw, widen

LEVELS = 127
SCALE_BYTES = 4
# With fewer numbers in a head, scales would outweigh what is saved.
LEAST_HEAD_DIM = 8

# Below it a quotient might exceed 127; such heads are as good as zero.
_LEAST_SCALE = np.float32(1e-36)

_NATIVE = ("bfloat16", "float32")

Scales = npt.NDArray[np.float32]


class Int8Kernels(Protocol):
    """The loops in native code, of the very same bits: `shared.engine.native.int8`."""

    def quantise(self, cells: npt.NDArray[np.generic], scales: Scales, small: npt.NDArray[np.int8]) -> None: ...

    def restore(self, small: npt.NDArray[np.int8], scales: Scales, cells: npt.NDArray[np.generic]) -> None: ...


class Int8Codec:
    """Both directions, in numpy where there are no `kernels`. `heads` are equal runs of cells, one after the other."""

    def __init__(self, kernels: Int8Kernels | None = None) -> None:
        self._kernels = kernels

    def quantised(self, cells: Bytes, dtype: str, heads: int) -> memoryview:
        """The payload of `cells`. Raises HandoffFailed for numbers that are not finite: no scale holds them."""
        given = raw(cells, dtype).reshape(heads, -1)
        payload = np.empty(heads * SCALE_BYTES + given.size, dtype=np.uint8)
        scales = payload[: heads * SCALE_BYTES].view("<f4")
        small = payload[heads * SCALE_BYTES :].view(np.int8).reshape(given.shape)
        self._quantise(given, dtype, scales, small)
        if not np.isfinite(scales).all():
            raise HandoffFailed("the cache holds numbers that are not finite: it cannot go as int8")
        return payload.data

    def cells(self, payload: Bytes, dtype: str, heads: int) -> memoryview:
        """The cells of `payload` in `dtype`. Raises ProtocolError for what is no payload; sizes were checked."""
        scales = np.frombuffer(payload, dtype="<f4", count=heads)
        _check(scales, dtype)
        small = np.frombuffer(payload, dtype=np.int8, offset=heads * SCALE_BYTES).reshape(heads, -1)
        if small.min() < -LEVELS:
            raise ProtocolError("KV chunk with cells that no quantising makes")
        out = empty(small.size, dtype)
        self._restore(small, scales, dtype, out.reshape(small.shape))
        return out.data.cast("B")

    def _quantise(
        self, given: npt.NDArray[np.generic], dtype: str, scales: Scales, small: npt.NDArray[np.int8]
    ) -> None:
        if self._kernels is not None and dtype in _NATIVE:
            self._kernels.quantise(given, scales, small)
            return
        values = np.empty(given.shape[1], dtype=np.float32)
        for head, row in enumerate(given):
            widen(row, dtype, values)
            with np.errstate(invalid="ignore"):
                scale = np.float32(max(values.max(), -values.min())) / np.float32(LEVELS)
            scales[head] = scale
            if not scale >= _LEAST_SCALE or np.isinf(scale):
                small[head] = 0
                continue
            np.divide(values, scale, out=values)
            np.rint(values, out=values)
            np.copyto(small[head], values, casting="unsafe")

    def _restore(self, small: npt.NDArray[np.int8], scales: Scales, dtype: str, out: npt.NDArray[np.generic]) -> None:
        if self._kernels is not None and dtype in _NATIVE:
            self._kernels.restore(small, scales, out)
            return
        values = np.empty(small.shape[1], dtype=np.float32)
        for head, row in enumerate(small):
            np.multiply(row, scales[head], out=values)
            narrow(values, dtype, out[head])


def payload_bytes(heads: int, cells: int) -> int:
    """What `cells` cells of `heads` heads take."""
    return heads * SCALE_BYTES + cells


def _check(scales: Scales, dtype: str) -> None:
    """Scales are finite, not negative, and no cell they could make is too large for `dtype`."""
    if not (np.isfinite(scales).all() and scales.min() >= 0.0 and float(scales.max()) * LEVELS <= LARGEST[dtype]):
        raise ProtocolError("KV chunk with scales that are none")
