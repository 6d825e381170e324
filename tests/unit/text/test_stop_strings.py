from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidRequest
from shared.text.stop_strings import StopStrings


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    scanner = StopStrings(stops)
    emitted = []
    for piece in pieces:
        scan = scanner.push(piece)
        emitted.append(scan.text)
        if scan.match is not None:
            return emitted, scan.match
    return [*emitted, scanner.finish()], None


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """The rule by brute force: the earliest end of an occurrence, then the longest stop string ending there."""
    found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end - len(stop)], stop


def test_without_stop_strings_text_passes_at_once() -> None:
    assert StopStrings(()).push("abc").text == "abc"


def test_a_possible_beginning_is_held_back_and_passed_on_when_it_fails() -> None:
    assert run(["END"], ["xE", "N", "x"]) == (["x", "", "ENx", ""], None)


def test_a_match_across_pieces_leaves_no_trace() -> None:
    assert run(["END"], ["xE", "ND", "y"]) == (["x", ""], "END")


def test_an_overlapping_beginning_is_not_forgotten() -> None:
    assert run(["aab"], ["aaab"]) == (["a"], "aab")


def test_the_stop_string_complete_first_wins() -> None:
    assert run(["abcd", "bc"], ["xabcd"]) == (["xa"], "bc")


def test_of_those_complete_at_once_the_longest_wins() -> None:
    assert run(["c", "abc"], ["xabc"]) == (["x"], "abc")


def test_what_is_held_back_at_the_end_is_text() -> None:
    assert run(["END"], ["xEN"]) == (["x", "EN"], None)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        StopStrings([""])


letters = st.text(alphabet="ab\n", max_size=12)


@given(
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4),
    pieces=st.lists(letters, max_size=8),
)
def test_any_cutting_gives_the_text_before_the_first_stop_string(stops: list[str], pieces: list[str]) -> None:
    emitted, match = run(stops, pieces)
    assert ("".join(emitted), match) == expected(stops, "".join(pieces))


@given(stop=st.text(alphabet="ab", min_size=1, max_size=6), pieces=st.lists(letters, max_size=8))
def test_only_a_beginning_of_a_stop_string_is_ever_held_back(stop: str, pieces: list[str]) -> None:
    scanner = StopStrings([stop])
    seen = passed = ""
    for piece in pieces:
        scan = scanner.push(piece)
        seen += piece
        passed += scan.text
        if scan.match:
            return
        held = seen[len(passed) :]
        assert stop.startswith(held)
        assert held != stop
