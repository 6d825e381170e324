"""Strikes, convictions and how they pass."""

from __future__ import annotations

import pytest

from services.gateway.sessions.quarantine import OTHER_DEATHS_S, Quarantine, Strike, prompt_key
from shared.core import Role
from shared.errors import Quarantined
from shared.runtime.beats import next_boot

KEEP_S = 60.0
FIRST = Strike(Role.DECODE, "d0", "boot")
SECOND = Strike(Role.DECODE, "d1", "boot")


class Ward:
    """A quarantine on a clock the test turns."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.quarantine = Quarantine(KEEP_S, lambda: self.now_s, limit=10)


@pytest.fixture
def ward() -> Ward:
    return Ward()


def convicted(quarantine: Quarantine, prompt: str = "p") -> bool:
    try:
        quarantine.check(prompt)
    except Quarantined:
        return True
    return False


def test_nobody_is_suspected_of_nothing(ward: Ward) -> None:
    assert not ward.quarantine
    assert not ward.quarantine.suspects("p")
    assert not convicted(ward.quarantine)


def test_one_strike_makes_a_suspect_and_a_proven_second_one_convicts(ward: Ward) -> None:
    assert not ward.quarantine.strike("p", FIRST, proven=True)
    assert ward.quarantine.suspects("p")
    assert not convicted(ward.quarantine)
    assert ward.quarantine.strike("p", SECOND, proven=True)
    with pytest.raises(Quarantined, match="60 s"):
        ward.quarantine.check("p")


def test_the_next_start_of_the_same_worker_is_another_one(ward: Ward) -> None:
    ward.quarantine.strike("p", FIRST, proven=False)
    assert ward.quarantine.strike("p", Strike(Role.DECODE, "d0", "another"), proven=True)


@pytest.mark.parametrize(
    ("strike", "proven"),
    [(FIRST, True), (SECOND, False), (Strike(Role.PREFILL, "p0", "boot"), True)],
    ids=["the same start again", "not proven", "another phase"],
)
def test_what_does_not_convict(ward: Ward, strike: Strike, proven: bool) -> None:
    ward.quarantine.strike("p", FIRST, proven=True)
    assert not ward.quarantine.strike("p", strike, proven=proven)
    assert not convicted(ward.quarantine)


def test_strikes_that_prove_nothing_never_convict_however_many(ward: Ward) -> None:
    for number in range(20):
        assert not ward.quarantine.strike("p", Strike(Role.DECODE, f"d{number}", "boot"), proven=False)


def test_a_prompt_is_convicted_once(ward: Ward) -> None:
    ward.quarantine.strike("p", FIRST, proven=True)
    assert ward.quarantine.strike("p", SECOND, proven=True)
    assert not ward.quarantine.strike("p", FIRST, proven=True)
    assert convicted(ward.quarantine)


def test_one_that_was_computed_well_is_clear(ward: Ward) -> None:
    ward.quarantine.strike("p", FIRST, proven=True)
    ward.quarantine.acquit("p")
    assert not ward.quarantine.suspects("p")
    assert not ward.quarantine.strike("p", SECOND, proven=True)


def test_all_is_forgotten_after_a_while(ward: Ward) -> None:
    ward.quarantine.strike("p", FIRST, proven=True)
    ward.quarantine.strike("p", SECOND, proven=True)
    ward.now_s = KEEP_S
    assert not convicted(ward.quarantine)
    assert not ward.quarantine


def test_the_oldest_is_forgotten_when_there_are_too_many(ward: Ward) -> None:
    for number in range(11):
        ward.quarantine.strike(str(number), FIRST, proven=True)
    assert not ward.quarantine.suspects("0")
    assert ward.quarantine.suspects("1")


def test_another_gateways_word_counts_but_not_longer_than_our_own(ward: Ward) -> None:
    ward.quarantine.convict("p", 1e6)
    assert convicted(ward.quarantine)
    ward.now_s = KEEP_S
    assert not convicted(ward.quarantine)


def test_a_worker_that_is_heard_again_had_not_died(ward: Ward) -> None:
    silent = Strike(Role.DECODE, "d1", "boot", silent=True)
    ward.quarantine.strike("p", FIRST, proven=True)
    ward.quarantine.strike("p", silent, proven=True)
    ward.quarantine.revive(lambda _role, _worker: None)
    assert convicted(ward.quarantine)
    ward.quarantine.revive(lambda _role, worker: "another" if worker == "d1" else "boot")
    assert convicted(ward.quarantine)
    ward.quarantine.revive(lambda _role, _worker: "boot")
    assert not convicted(ward.quarantine)
    assert ward.quarantine.suspects("p"), "the other strike was a death for sure"


def test_a_worker_that_was_cut_off_and_let_go_of_all_had_not_died(ward: Ward) -> None:
    """It comes back with another boot, and is the same process."""
    ward.quarantine.strike("p", FIRST, proven=True)
    ward.quarantine.strike("p", SECOND, proven=True)
    ward.quarantine.revive(lambda _role, worker: next_boot("boot") if worker == SECOND.worker else "another")
    assert not convicted(ward.quarantine)
    assert ward.quarantine.suspects("p"), "the other strike was a death for sure"


def test_where_workers_die_without_it_as_well_it_takes_a_third(ward: Ward) -> None:
    for death in (FIRST, Strike(Role.PREFILL, "p7", "boot")):
        ward.quarantine.death(death)
    ward.quarantine.strike("p", FIRST, proven=True)
    assert not ward.quarantine.strike("p", SECOND, proven=True)
    assert ward.quarantine.strike("p", Strike(Role.DECODE, "d2", "boot"), proven=True)


def test_deaths_of_another_convict_do_not_matter(ward: Ward) -> None:
    for worker in ("p7", "p8"):
        other = Strike(Role.PREFILL, worker, "boot")
        ward.quarantine.death(other)
        ward.quarantine.strike("q", other, proven=True)
    for strike in (FIRST, SECOND):
        ward.quarantine.death(strike)
        ward.quarantine.strike("p", strike, proven=True)
    assert convicted(ward.quarantine, "q")
    assert convicted(ward.quarantine, "p")


def test_deaths_of_long_ago_do_not_matter(ward: Ward) -> None:
    ward.quarantine.death(Strike(Role.PREFILL, "p7", "boot"))
    ward.now_s = OTHER_DEATHS_S
    ward.quarantine.strike("p", FIRST, proven=True)
    assert ward.quarantine.strike("p", SECOND, proven=True)


def test_equal_tokens_have_equal_names() -> None:
    assert prompt_key([1, 2, 3]) == prompt_key((1, 2, 3)) != prompt_key([1, 2])
    assert len(prompt_key([])) == 32
