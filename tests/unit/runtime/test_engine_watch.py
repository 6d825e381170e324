"""When an engine is taken for stalled."""

from __future__ import annotations

from shared.runtime.engine_watch import EngineWatch


class Thread:
    """Stands for an engine's thread."""

    def __init__(self) -> None:
        self.running_call: int | None = None


class Look:
    """An engine that runs call after call while time passes in half seconds."""

    def __init__(self, stall_s: float = 10.0) -> None:
        self.now_s = 0.0
        self.thread = Thread()
        self.watch = EngineWatch(self.thread, stall_s, lambda: self.now_s)  # type: ignore[arg-type]

    def runs(self, call: int | None, for_s: float) -> str:
        self.thread.running_call = call
        said = self.watch.look()
        for _ in range(round(for_s / 0.5)):
            self.now_s += 0.5
            said = said or self.watch.look()
        return said


def test_many_short_calls_are_no_stall() -> None:
    it = Look()
    assert not any(it.runs(call, 5) for call in range(20))


def test_no_call_is_no_stall() -> None:
    assert not Look().runs(None, 1000)


def test_a_call_beyond_the_limit_is_one_and_half_of_it_a_warning() -> None:
    it = Look()
    assert not it.runs(1, 4)
    assert not it.watch.slow
    assert not it.runs(1, 4)
    assert it.watch.slow
    assert "one call for 1" in it.runs(1, 4)


def test_an_engine_that_takes_long_by_nature_gets_more_time() -> None:
    it = Look()
    assert not it.runs(1, 9)
    assert not it.runs(2, 80)
    assert not it.watch.slow or it.watch.limit_s > 80
    assert it.runs(2, 20)


def test_the_time_a_process_was_frozen_does_not_count() -> None:
    it = Look()
    assert not it.runs(1, 4)
    it.now_s += 1000
    assert not it.watch.look()
    assert it.runs(1, 8)
