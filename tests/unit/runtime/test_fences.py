"""Fences: what was cancelled stays out, and how much is remembered is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Cancelled
from shared.runtime.fences import Fences


def shut(fences: Fences, session: str, epoch: int) -> bool:
    try:
        fences.check(session, epoch)
    except Cancelled:
        return True
    return False


def test_a_fence_shuts_out_its_epoch_and_older_ones() -> None:
    fences = Fences()
    fences.raise_fence("s", 3)
    assert [shut(fences, "s", epoch) for epoch in range(5)] == [True, True, True, True, False]


def test_epoch_zero_can_be_fenced() -> None:
    fences = Fences()
    assert not shut(fences, "s", 0)
    fences.raise_fence("s", 0)
    assert shut(fences, "s", 0)


def test_an_older_cancel_that_comes_late_lowers_no_fence() -> None:
    fences = Fences()
    fences.raise_fence("s", 3)
    fences.raise_fence("s", 1)
    assert shut(fences, "s", 3)


def test_sessions_do_not_share_fences() -> None:
    fences = Fences()
    fences.raise_fence("s", 3)
    assert not shut(fences, "t", 0)


def test_the_oldest_is_forgotten_beyond_the_limit() -> None:
    fences = Fences(remembered=2)
    for session in ("a", "b", "c"):
        fences.raise_fence(session, 0)
    assert [shut(fences, session, 0) for session in ("a", "b", "c")] == [False, True, True]


def test_a_fence_raised_again_counts_as_new() -> None:
    fences = Fences(remembered=2)
    for session in ("a", "b", "a", "c"):
        fences.raise_fence(session, 0)
    assert [shut(fences, session, 0) for session in ("a", "b", "c")] == [True, False, True]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5)), max_size=40), st.integers(1, 4))
def test_what_is_remembered_is_the_last_so_many_sessions(raised: list[tuple[str, int]], remembered: int) -> None:
    fences = Fences(remembered)
    kept: dict[str, int] = {}
    for session, epoch in raised:
        fences.raise_fence(session, epoch)
        kept[session] = max(epoch, kept.pop(session, epoch))
        kept = dict(list(kept.items())[-remembered:])
    assert {session: epoch for session in "abcdef" for epoch in range(6) if shut(fences, session, epoch)} == kept


@pytest.mark.parametrize("session", ["a", "b"])
def test_the_error_names_session_and_epoch(session: str) -> None:
    fences = Fences()
    fences.raise_fence(session, 2)
    with pytest.raises(Cancelled, match=f"session {session} epoch 1"):
        fences.check(session, 1)
