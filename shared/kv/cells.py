"""Cells of a cache as numbers: float32, float16, and bfloat16, which numpy has no type for, in any direction.

Widening is exact; narrowing rounds to nearest, ties to even, and what is too large becomes infinite, as everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# What still rounds to a finite number of that dtype.
LARGEST = {"float32": 3.4028234663852886e38, "float16": 65519.0, "bfloat16": 3.3961e38}

_RAW: dict[str, np.dtype[np.generic]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}
# So many numbers, with what is made of them on the way, stay in the cache of one core.
_STRIP = 1 << 14
_HALF = np.uint32(0x7FFF)
_QUIET = np.uint32(0x0040)

Bytes = bytes | bytearray | memoryview
Floats = npt.NDArray[np.float32]


def raw(cells: Bytes, dtype: str) -> npt.NDArray[np.generic]:
    """The cells as numpy can hold them, without a copy: bfloat16 as uint16."""
    return np.frombuffer(cells, dtype=_RAW[dtype])


def empty(count: int, dtype: str) -> npt.NDArray[np.generic]:
    """Room for `count` cells, as `raw` shows them."""
    return np.empty(count, dtype=_RAW[dtype])


def widen(cells: npt.NDArray[np.generic], dtype: str, out: Floats) -> None:
    """`raw` cells as float32, exactly, into `out` of the same length."""
    if dtype != "bfloat16":
        np.copyto(out, cells)
        return
    bits = out.view(np.uint32)
    np.copyto(bits, cells)
    np.left_shift(bits, 16, out=bits)


def narrow(values: Floats, dtype: str, out: npt.NDArray[np.generic]) -> None:
    """float32 as `raw` cells of `dtype`, rounded, into `out` of the same length. `values` is used up."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="same_kind")
        return
    bits = values.view(np.uint32)
    nan = np.isnan(values)
    has_nan = bool(nan.any())
    high = bits >> 16
    nans = (high | _QUIET)[nan] if has_nan else high[:0]
    high &= 1
    high += _HALF
    bits += high
    bits >>= 16
    if has_nan:
        bits[nan] = nans
    np.copyto(out, bits, casting="unsafe")


def convert(cells: Bytes, source: str, target: str) -> memoryview:
    """Cells of dtype `source` as cells of dtype `target`; the very bytes when they are the same."""
    if source == target:
        return memoryview(cells)
    given = raw(cells, source)
    out = empty(given.size, target)
    values = np.empty(min(_STRIP, given.size), dtype=np.float32)
    for start in range(0, given.size, _STRIP):
        strip = slice(start, min(start + _STRIP, given.size))
        some = values[: strip.stop - start]
        widen(given[strip], source, some)
        narrow(some, target, out[strip])
    return out.data.cast("B")
