"""Subjects: one token per name, nobody hears what is meant for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core import Role
from shared.errors import ConfigError
from shared.protocol import subjects


@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"))
def test_names_that_are_one_token_are_taken(name: str) -> None:
    assert subjects.check_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "*", ">", "a b", "a\n", "x" * 65, "ü"], ids=repr)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        subjects.check_name(name)


def test_kv_messages_of_a_session_share_a_prefix() -> None:
    prefix = subjects.kv("abc", 2) + "."
    for subject in (subjects.kv_chunk("abc", 2), subjects.kv_manifest("abc", 2), subjects.kv_probe("abc", 2)):
        assert subject.startswith(prefix)
        assert "." not in subject.removeprefix(prefix)


def test_no_two_subjects_are_the_same() -> None:
    found = [
        subjects.GENERATE,
        subjects.PLACE,
        subjects.CANCEL_PLACEMENT,
        subjects.run("w"),
        subjects.claim("w"),
        subjects.cancel(Role.PREFILL, "w"),
        subjects.cancel(Role.DECODE, "w"),
        subjects.beat(Role.DECODE, "w"),
        subjects.beat(Role.PREFILL, "w"),
        subjects.tokens("w"),
        subjects.kv_chunk("s", 0),
        subjects.kv_chunk("s", 1),
        subjects.kv_manifest("s", 0),
        subjects.kv_probe("s", 0),
        subjects.kv_feedback("s", 0),
    ]
    assert len(set(found)) == len(found)
    assert all(subject.startswith(subjects.ROOT + ".") for subject in found)
