"""The native int8 codec makes the bits of the one in numpy, for any cells, and refuses what that refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_library import native_kernels, needs_compiler, plain_kernels

from shared.engine.native import Kernels
from shared.errors import HandoffFailed, ProtocolError
from shared.kv.cells import convert
from shared.kv.int8 import Int8Codec

pytestmark = needs_compiler
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
NUMPY = Int8Codec()


@pytest.fixture(scope="module", params=[native_kernels, plain_kernels], ids=["native", "plain"])
def codec(request: pytest.FixtureRequest) -> Int8Codec:
    build: Callable[[], Kernels] = request.param
    return Int8Codec(build().int8)


def outcome(call: Callable[[], memoryview]) -> bytes | type[Exception]:
    try:
        return bytes(call())
    except (HandoffFailed, ProtocolError) as error:
        return type(error)


@pytest.mark.parametrize("dtype", WIDTHS)
@given(data=st.data(), heads=st.integers(1, 3), run=st.integers(1, 40))
def test_any_bits_become_the_same_payload(
    codec: Int8Codec, dtype: str, data: st.DataObject, heads: int, run: int
) -> None:
    size = heads * run * WIDTHS[dtype]
    cells = data.draw(st.binary(min_size=size, max_size=size))
    assert outcome(lambda: codec.quantised(cells, dtype, heads)) == outcome(
        lambda: NUMPY.quantised(cells, dtype, heads)
    )


@pytest.mark.parametrize("dtype", WIDTHS)
@given(data=st.data(), heads=st.integers(1, 3), run=st.integers(1, 40))
def test_any_payload_becomes_the_same_cells(
    codec: Int8Codec, dtype: str, data: st.DataObject, heads: int, run: int
) -> None:
    size = heads * 4 + heads * run
    payload = data.draw(st.binary(min_size=size, max_size=size))
    assert outcome(lambda: codec.cells(payload, dtype, heads)) == outcome(lambda: NUMPY.cells(payload, dtype, heads))


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("scale", [1e-39, 1e-20, 1.0, 300.0, 1e30])
def test_numbers_of_every_size(codec: Int8Codec, dtype: str, scale: float) -> None:
    values = (np.random.default_rng(3).normal(0, 1, 6 * 1000) * scale).astype("<f4")
    cells = bytes(convert(values.tobytes(), "float32", dtype))
    payload = outcome(lambda: codec.quantised(cells, dtype, 6))
    assert payload == outcome(lambda: NUMPY.quantised(cells, dtype, 6))
    if isinstance(payload, bytes):
        assert bytes(codec.cells(payload, dtype, 6)) == bytes(NUMPY.cells(payload, dtype, 6))
