"""Continuous batching: who is in a step, who is freed when."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from claims import REPORT, SPEC, claim

from services.decode.desk import ClaimDesk
from services.decode.session import DecodeSession, SessionState
from services.decode.stepper import Stepper
from shared.core import FinishReason, SampledToken
from shared.engine.fake import FakeEngine
from shared.runtime.engine_thread import EngineThread
from shared.runtime.tasks import Tasks


async def always() -> None:
    return


class HeldEngine(FakeEngine):
    """Each step waits for `go`, and may fail."""

    def __init__(self) -> None:
        super().__init__(SPEC, 1 << 20)
        self._loop = asyncio.get_running_loop()
        self._go = threading.Semaphore(0)
        self.batches: asyncio.Queue[list[str]] = asyncio.Queue()
        self.poison: set[str] = set()

    def go(self, steps: int = 1) -> None:
        self._go.release(steps)

    def step(self, keys: Sequence[str]) -> list[SampledToken]:
        self._loop.call_soon_threadsafe(self.batches.put_nowait, list(keys))
        assert self._go.acquire(timeout=30)
        if self.poison & set(keys):
            raise ArithmeticError("made to fail")
        return super().step(keys)


class Decode:
    """A stepper with what is around it in the worker."""

    def __init__(self, tasks: Tasks) -> None:
        self.engine = HeldEngine()
        self.thread = EngineThread("engine")
        self.frames: list[tuple[str, int, FinishReason | None]] = []
        self.ended: list[DecodeSession] = []
        self.announced: list[DecodeSession] = []
        self.sent = asyncio.Event()
        self._desk = ClaimDesk(self.engine, "d0", batch_limit=64, window_bytes=1 << 20)
        self.stepper = Stepper(
            self.engine,
            self.thread,
            may_step=always,
            send=self._send,
            ended=self._ended,
            announce=self._announce,
        )
        self.failed = asyncio.Event()
        stepping = tasks.start(self.stepper.run(), name="stepper")
        stepping.add_done_callback(lambda _: self.failed.set())

    def session(self, **fields: object) -> DecodeSession:
        """One that has its cache and the first token."""
        session = self._desk.grant(claim(**fields))
        self.engine.append(session.key, 1)
        session.start(REPORT)
        return session

    def join(self, **fields: object) -> DecodeSession:
        session = self.session(**fields)
        self.stepper.join(session)
        return session

    async def step(self) -> list[str]:
        """Let one step through, and return who was in it."""
        batch = await self.engine.batches.get()
        self.sent.clear()
        self.engine.go()
        await self.sent.wait()
        return batch

    def _send(self, frames) -> None:
        self.frames += [(frame.session, frame.index, frame.finish) for _, frame in frames]
        self.sent.set()

    async def _announce(self, session: DecodeSession) -> None:
        self.announced.append(session)

    def _ended(self, session: DecodeSession) -> None:
        self.ended.append(session)
        self._desk.release(session)
        self.sent.set()


@pytest.fixture
async def decode() -> AsyncIterator[Decode]:
    async with Tasks("decode") as tasks:
        it = Decode(tasks)
        yield it
        it.engine.go(1000)
    it.thread.close()


async def test_every_step_moves_all_that_run_by_one_token(decode: Decode):
    first, second = decode.join(), decode.join()
    assert await decode.step() == [first.key, second.key]
    assert await decode.step() == [first.key, second.key]
    sessions = [first.claim.session, second.claim.session]
    assert [frame[:2] for frame in decode.frames] == [(name, index) for index in (1, 2) for name in sessions]


async def test_one_that_joins_during_a_step_is_in_the_next(decode: Decode):
    first = decode.join()
    await decode.engine.batches.get()
    second = decode.join()
    decode.engine.go()
    assert await decode.engine.batches.get() == [first.key, second.key]


async def test_one_that_leaves_between_steps_is_freed_at_once(decode: Decode):
    session = decode.session()
    decode.stepper.leave(session)
    assert decode.ended == [session]
    assert session.state is SessionState.ENDED


async def test_one_that_leaves_during_a_step_is_freed_after_it(decode: Decode):
    stays, leaves = decode.join(), decode.join()
    await decode.engine.batches.get()
    decode.stepper.leave(leaves)
    assert decode.ended == []
    decode.engine.go()
    await decode.sent.wait()
    await decode.engine.batches.get()
    assert decode.ended == [leaves]
    assert [frame[0] for frame in decode.frames] == [stays.claim.session]


async def test_one_that_joins_during_a_step_and_leaves_in_it_is_freed_at_once(decode: Decode):
    decode.join()
    await decode.engine.batches.get()
    late = decode.join()
    decode.stepper.leave(late)
    assert decode.ended == [late]


async def test_leaving_twice_ends_once(decode: Decode):
    session = decode.session()
    decode.stepper.leave(session)
    decode.stepper.leave(session)
    assert decode.ended == [session]


async def test_the_last_token_ends_a_session(decode: Decode):
    short, long = decode.join(max_tokens=2), decode.join(max_tokens=3)
    await decode.step()
    assert decode.ended == [short]
    assert await decode.step() == [long.key]
    assert decode.ended == [short, long]
    assert [frame[2] for frame in decode.frames] == [FinishReason.LENGTH, None, FinishReason.LENGTH]


async def test_its_frames_are_sent_before_a_session_is_freed(decode: Decode):
    order: list[str] = []
    send, ended = decode.stepper._send, decode.stepper._ended
    decode.stepper._send = lambda frames: (order.append("sent"), send(frames))
    decode.stepper._ended = lambda session: (order.append("freed"), ended(session))
    decode.join(max_tokens=2)
    await decode.step()
    assert order == ["sent", "freed"]


async def test_a_step_that_fails_for_one_ends_that_one_and_moves_the_others(decode: Decode):
    first, ill, third = decode.join(), decode.join(), decode.join()
    decode.engine.poison = {ill.key}
    decode.engine.go(5)
    batches = [await decode.engine.batches.get() for _ in range(5)]
    assert batches[0] == [first.key, ill.key, third.key]
    assert sorted(batches[1:], key=len) == [[first.key], [ill.key], [third.key], [ill.key, third.key]]
    await decode.sent.wait()
    assert decode.ended == [ill]
    assert decode.frames == [
        (first.claim.session, 1, None),
        (ill.claim.session, 0, FinishReason.ERROR),
        (third.claim.session, 1, None),
    ]
    assert await decode.step() == [first.key, third.key]


async def test_one_that_leaves_during_a_failing_step_is_freed_after_it(decode: Decode):
    stays, leaves = decode.join(), decode.join()
    await decode.engine.batches.get()
    decode.stepper.leave(leaves)
    decode.engine.poison = {leaves.key}
    decode.engine.go(3)
    await decode.sent.wait()
    assert decode.ended == [leaves]
    assert decode.frames == [(stays.claim.session, 1, None)]


async def test_one_on_trial_makes_its_first_step_alone_and_announced(decode: Decode):
    first, tried, second = decode.join(), decode.join(trial=True), decode.join()
    assert await decode.step() == [tried.key]
    assert decode.announced == [tried]
    assert await decode.step() == [first.key, tried.key, second.key]
    assert decode.announced == [tried]


async def test_an_engine_that_fails_on_session_after_session_is_given_up(decode: Decode):
    sessions = [decode.join() for _ in range(3)]
    decode.engine.poison = {session.key for session in sessions}
    decode.engine.go(5)
    await decode.failed.wait()
    assert decode.ended == sessions


async def test_without_sessions_the_engine_rests(decode: Decode):
    session = decode.session()
    decode.stepper.join(session)
    decode.stepper.leave(session)
    other = decode.join(max_tokens=2)
    assert await decode.step() == [other.key]
    assert (decode.stepper.steps, len(decode.stepper), decode.engine.batches.qsize()) == (1, 0, 0)
