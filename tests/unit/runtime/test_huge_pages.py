"""A process begins anew with glibc's tunable, once, as the same program with the same arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared.runtime.huge_pages import TUNABLE, VARIABLE, WANTED, with_huge_pages

PROGRAM = """
import os, sys
from shared.runtime.huge_pages import begin_anew_with_huge_pages
print("begins", os.getpid(), flush=True)
begin_anew_with_huge_pages(dict(os.environ))
print("goes on", os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


def test_what_others_have_tuned_stays() -> None:
    wanted = ":".join(WANTED)
    assert with_huge_pages({}) == {VARIABLE: wanted}
    assert with_huge_pages({VARIABLE: "a.b=2", "X": "y"}) == {VARIABLE: f"a.b=2:{wanted}", "X": "y"}


def test_who_has_decided_is_left_alone() -> None:
    assert with_huge_pages({VARIABLE: f"{TUNABLE}=0"}) is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_it_begins_again_once_in_the_same_process() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM, "one", "two words"], capture_output=True, text=True, timeout=60, check=True
    ).stdout.splitlines()
    assert said[0] == said[1]
    assert said[2] == f"goes on {':'.join(WANTED)} ['one', 'two words']"
    assert len(said) == 3
