"""Caches as int8: how near they come back, and which payloads are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import HandoffFailed, ProtocolError
from shared.kv.cells import convert
from shared.kv.int8 import LEVELS, SCALE_BYTES, Int8Codec

CODEC = Int8Codec()
DTYPES = ["float32", "float16", "bfloat16"]
# Heads of smaller numbers count as zero.
NOTHING = 2e-34
finite = st.floats(-1000, 1000, width=32)


def cells_of(values: np.ndarray, dtype: str) -> bytes:
    return bytes(convert(values.astype("<f4").tobytes(), "float32", dtype))


def numbers(cells: memoryview | bytes, dtype: str) -> np.ndarray:
    return np.frombuffer(convert(cells, dtype, "float32"), dtype="<f4")


@pytest.mark.parametrize("dtype", DTYPES)
@given(heads=st.integers(1, 4), data=st.data())
def test_no_number_is_off_by_more_than_half_a_scale(dtype: str, heads: int, data: st.DataObject) -> None:
    run = data.draw(st.integers(1, 24))
    values = np.array(data.draw(st.lists(finite, min_size=heads * run, max_size=heads * run)), dtype=np.float32)
    cells = cells_of(values, dtype)
    payload = CODEC.quantised(cells, dtype, heads)
    assert len(payload) == heads * SCALE_BYTES + heads * run
    before = numbers(cells, dtype).reshape(heads, run).astype(np.float64)
    after = numbers(CODEC.cells(payload, "float32", heads), "float32").reshape(heads, run)
    scales = np.abs(before).max(axis=1, keepdims=True) / LEVELS
    assert (np.abs(after - before) <= scales * 0.5001 + NOTHING).all()


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_the_receiver_gets_its_own_dtype(source: str, target: str) -> None:
    values = np.linspace(-3, 3, 96, dtype=np.float32)
    payload = CODEC.quantised(cells_of(values, source), source, 2)
    restored = CODEC.cells(payload, target, 2)
    assert bytes(restored) == bytes(convert(CODEC.cells(payload, "float32", 2), "float32", target))
    assert np.allclose(numbers(restored, target), values, atol=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_and_the_largest_numbers_come_back(dtype: str) -> None:
    largest = {"float32": 3e38, "float16": 65504.0, "bfloat16": 3.3895313892515355e38}[dtype]
    values = np.array([0, 0, 0, 0, largest, -largest, 0, largest / 2], dtype=np.float32)
    back = numbers(CODEC.cells(CODEC.quantised(cells_of(values, dtype), dtype, 2), dtype, 2), dtype)
    assert (back[:4] == 0).all()
    assert np.allclose(back[4:], values[4:], rtol=2e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("place", [0, 5, 7])
def test_numbers_that_are_not_finite_are_not_sent(dtype: str, bad: float, place: int) -> None:
    values = np.ones(8, dtype=np.float32)
    values[place] = bad
    with pytest.raises(HandoffFailed, match="finite"):
        CODEC.quantised(cells_of(values, dtype), dtype, 2)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        *((bad, dtype) for bad in (np.nan, np.inf, -np.inf, -1.0, -1e-30) for dtype in DTYPES),
        (3e38, "float32"),
        (3e38, "bfloat16"),
        (1000.0, "float16"),
    ],
)
def test_scales_that_are_none_are_refused(scale: float, dtype: str) -> None:
    payload = struct.pack("<ff", 1.0, scale) + bytes(range(16))
    with pytest.raises(ProtocolError, match="scales"):
        CODEC.cells(payload, dtype, 2)


@given(payload=st.binary(min_size=2 * SCALE_BYTES + 16, max_size=2 * SCALE_BYTES + 16))
def test_any_payload_gives_finite_numbers_or_is_refused(payload: bytes) -> None:
    for dtype in DTYPES:
        try:
            cells = CODEC.cells(payload, dtype, 2)
        except ProtocolError:
            continue
        assert np.isfinite(numbers(cells, dtype)).all()
