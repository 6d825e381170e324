"""Who spoils a call for many is found, whoever they are, and the others are served once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import EngineFailed
from shared.runtime.apart import Streak, call_apart


class Engine:
    """Doubles numbers, but for some that it cannot bear."""

    def __init__(self, poison: set[int]) -> None:
        self._poison = poison
        self.calls = 0
        self.served: Counter[int] = Counter()

    async def call(self, numbers: Sequence[int]) -> list[int]:
        self.calls += 1
        if self._poison & set(numbers):
            raise ArithmeticError("poison")
        self.served.update(numbers)
        return [2 * number for number in numbers]


@given(st.integers(1, 64), st.sets(st.integers(0, 63), max_size=5))
async def test_all_but_the_poison_are_served_once_and_in_order(count: int, poison: set[int]) -> None:
    engine = Engine(poison)
    outcomes = await call_apart(engine.call, list(range(count)))
    assert len(outcomes) == count
    for number, outcome in enumerate(outcomes):
        if number in poison:
            assert isinstance(outcome, EngineFailed)
        else:
            assert outcome == 2 * number
    assert all(times == 1 for times in engine.served.values())


@pytest.mark.parametrize("count", [1, 2, 3, 17, 64])
async def test_one_among_many_is_found_with_few_calls(count: int) -> None:
    engine = Engine({count - 1})
    await call_apart(engine.call, list(range(count)))
    assert engine.calls <= 1 + 2 * math.ceil(math.log2(count))


async def test_without_poison_there_is_one_call() -> None:
    engine = Engine(set())
    await call_apart(engine.call, list(range(64)))
    assert engine.calls == 1


def test_a_streak_is_of_different_sessions() -> None:
    streak = Streak()
    for _ in range(10):
        streak.failed("a")
    streak.failed("b")
    streak.served()
    streak.failed("c")
    streak.failed("d")
    with pytest.raises(EngineFailed, match="in a row"):
        streak.failed("e")
