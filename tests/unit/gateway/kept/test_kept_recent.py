"""How much of what has ended is kept."""

from __future__ import annotations

from services.gateway.kept.recent import Recent


def test_the_oldest_go_when_it_is_too_much():
    recent = Recent(10)
    assert [recent.add(name, 4) for name in "abcd"] == [[], [], ["a"], ["b"]]
    assert recent.add("e", 9) == ["c", "d"]


def test_the_last_one_stays_whatever_its_size():
    recent = Recent(10)
    assert recent.add("a", 50) == []
    assert recent.add("b", 1) == ["a"]


def test_what_is_added_again_counts_once_and_is_the_last():
    recent = Recent(10)
    for name in "aba":
        assert recent.add(name, 5) == []
    assert recent.add("c", 5) == ["b"]
