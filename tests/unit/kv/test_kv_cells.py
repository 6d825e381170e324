"""Cells of one dtype as another: what torch makes of them, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.kv.cells import convert

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
INTEGERS = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}


def by_torch(cells: bytes, source: str, target: str) -> bytes:
    """The same conversion, with NaN as it may be: any."""
    given = torch.frombuffer(bytearray(cells), dtype=DTYPES[source])
    same_size = {2: torch.int16, 4: torch.int32}
    converted = given.to(DTYPES[target])
    return converted.view(same_size[converted.element_size()]).numpy().tobytes()


def numbers(cells: bytes, dtype: str) -> np.ndarray:
    return torch.frombuffer(bytearray(cells), dtype=DTYPES[dtype]).to(torch.float64).numpy()


def same(one: bytes, other: bytes, dtype: str) -> bool:
    nan = np.isnan(numbers(one, dtype))
    ints = [np.frombuffer(cells, dtype=INTEGERS[dtype]) for cells in (one, other)]
    return bool((nan == np.isnan(numbers(other, dtype))).all() and (ints[0][~nan] == ints[1][~nan]).all())


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
@given(data=st.data())
def test_any_bits_become_what_torch_makes_of_them(source: str, target: str, data: st.DataObject) -> None:
    width = np.dtype(INTEGERS[source]).itemsize
    integer = st.integers(0, (1 << (8 * width)) - 1)
    cells = np.array(data.draw(st.lists(integer, min_size=1, max_size=40)), dtype=INTEGERS[source]).tobytes()
    assert same(bytes(convert(cells, source, target)), by_torch(cells, source, target), target)


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_every_narrow_number_survives_being_widened(source: str) -> None:
    cells = np.arange(1 << 16, dtype=np.uint16).tobytes()
    back = convert(convert(cells, source, "float32"), "float32", source)
    assert same(bytes(back), cells, source)


def test_ties_between_two_bfloat16_go_to_the_even_one() -> None:
    ties = np.arange(0x3F800000, 0x3F900000, 0x8000, dtype=np.uint32).tobytes()
    assert bytes(convert(ties, "float32", "bfloat16")) == by_torch(ties, "float32", "bfloat16")


def test_equal_dtypes_are_not_copied() -> None:
    cells = bytes(range(64))
    assert convert(cells, "bfloat16", "bfloat16").obj is cells
