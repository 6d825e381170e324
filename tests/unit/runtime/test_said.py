"""What is said again, on an injected clock."""

from __future__ import annotations

import pytest

from shared.core import FinishReason
from shared.errors import WorkerFailed
from shared.protocol.to_gateway import TokenFrame
from shared.protocol.to_worker import Awaited, Repeat
from shared.protocol.wire import pack_ids
from shared.runtime.said import KEEP_S, Said

SESSION = "a" * 32


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said(clock: Clock) -> Said:
    return Said(limit=100, clock=clock)


def frame(index: int, tokens: int = 1, epoch: int = 0, **fields: object) -> TokenFrame:
    ids = pack_ids(range(index, index + tokens))
    return TokenFrame(session=SESSION, epoch=epoch, index=index, ids=ids, **fields)  # type: ignore[arg-type]


def repeat(next_index: int, epoch: int = 0, session: str = SESSION) -> Repeat:
    return Repeat(gateway="g", sessions=(Awaited(session=session, epoch=epoch, next_index=next_index),))


def test_what_is_awaited_is_said_again_in_order(said: Said) -> None:
    frames = [frame(index) for index in range(10)]
    for one in frames:
        said.add(one)
    assert said.again(repeat(7)) == frames[7:]
    assert said.again(repeat(7)) == frames[7:]
    assert said.again(repeat(10)) == []


def test_a_frame_that_reaches_into_what_is_awaited_is_said_whole(said: Said) -> None:
    said.add(frame(0, tokens=4))
    assert said.again(repeat(3)) == [frame(0, tokens=4)]
    assert said.again(repeat(4)) == []


@pytest.mark.parametrize("fields", [{"finish": FinishReason.LENGTH}, {"finish": FinishReason.ERROR}])
def test_an_end_is_said_again_whatever_is_awaited(said: Said, fields: dict[str, object]) -> None:
    end = frame(0, tokens=0, error=WorkerFailed("x").info, **fields)
    said.add(end)
    assert said.again(repeat(99)) == [end]


def test_other_sessions_and_epochs_are_not(said: Said) -> None:
    said.add(frame(0, epoch=1))
    assert said.again(repeat(0, epoch=0)) == []
    assert said.again(repeat(0, epoch=1, session="b" * 32)) == []


def test_what_is_kept_is_bounded_in_time_and_number(said: Said, clock: Clock) -> None:
    for index in range(300):
        said.add(frame(index))
    assert len(said) == 100
    clock.now_s += KEEP_S + 0.1
    said.add(frame(300))
    assert len(said) == 1
