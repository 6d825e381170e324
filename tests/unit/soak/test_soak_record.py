"""The judge of the soak: it must see every token that is wrong, comes twice, or is missing."""

from __future__ import annotations

import pytest
from benchmarks.soak.ends import Hopped
from benchmarks.soak.record import Record

EXPECTED = [5, 6, 7, 8]


def errors_of(*pieces: tuple[list[int], int], finished: bool = True) -> int:
    record = Record(EXPECTED)
    for tokens, index in pieces:
        record.take(tokens, index)
    if finished:
        record.finish()
    return record.token_errors


def test_what_is_expected_has_no_errors():
    assert errors_of(([5], 0), ([6, 7], 1), ([8], 3)) == 0


def test_a_stream_that_breaks_off_has_none_in_what_came():
    assert errors_of(([5, 6], 0), finished=False) == 0


def test_a_wrong_token_counts():
    assert errors_of(([5, 6, 9, 8], 0)) == 1


def test_a_token_that_comes_twice_counts():
    assert errors_of(([5, 6], 0), ([6, 7, 8], 1)) > 0


def test_a_token_that_is_left_out_counts():
    assert errors_of(([5], 0), ([7, 8], 2)) > 0


def test_tokens_after_the_last_count():
    assert errors_of(([5, 6, 7, 8], 0), ([9, 9], 4)) == 2


def test_an_early_end_counts_what_is_missing():
    assert errors_of(([5], 0)) == 3


def test_without_expectations_all_is_right_and_kept():
    record = Record(None)
    record.take([1, 2], 0)
    record.finish()
    assert (record.tokens, record.token_errors) == ([1, 2], 0)


def test_a_client_hops_once():
    record = Record(EXPECTED, hop_at=2)
    record.take([5], 0)
    record.hop()
    record.take([6], 1)
    with pytest.raises(Hopped):
        record.hop()
    record.hop()
