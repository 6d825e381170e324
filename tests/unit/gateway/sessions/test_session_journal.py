"""One session: its journal, its reader, its end."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from frames import frame, ids_of, placed, request

from services.gateway.sessions import watch
from services.gateway.sessions.session import Session
from services.gateway.sessions.watch import unnoticed_failure
from shared.bus.liveness import Liveness
from shared.core import FinishReason, Role
from shared.errors import DeadlineExceeded, ProtocolError, WorkerFailed
from shared.protocol.to_all import Beat, WorkerState
from shared.protocol.to_decode import PrefillReport
from shared.protocol.to_gateway import HandoffReport
from shared.protocol.wire import unpack_ids

REPORT = HandoffReport(worker="d0", visible_ms=1.0, payload_bytes=10, chunks=1)


async def test_the_reader_gets_all_that_has_arrived_at_once():
    session = Session(request())
    session.on_frame(frame(0, [10]))
    session.on_frame(frame(1, [11, 12]))
    tokens, finish = await session.next_tokens()
    assert (ids_of(tokens), finish) == ([10, 11, 12], None)


async def test_the_reader_waits_for_a_token():
    session = Session(request())
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(session.next_tokens())
        await asyncio.sleep(0)
        session.on_frame(frame(1, [11]))
        await asyncio.sleep(0)
        assert not reading.done()
        session.on_frame(frame(0, [10], finish=None))
    assert ids_of(reading.result()[0]) == [10, 11]


async def test_the_end_comes_with_the_last_tokens_or_alone():
    session = Session(request())
    session.on_frame(frame(0, [10], finish=FinishReason.LENGTH))
    assert session.finished
    tokens, finish = await session.next_tokens()
    assert (ids_of(tokens), finish) == ([10], FinishReason.LENGTH)
    assert await session.next_tokens() == ([], FinishReason.LENGTH)


async def test_a_failure_comes_after_the_tokens_before_it():
    session = Session(request())
    session.on_frame(frame(0, [10]))
    session.on_frame(frame(1, error=WorkerFailed("broken").info))
    assert ids_of((await session.next_tokens())[0]) == [10]
    with pytest.raises(WorkerFailed, match="broken"):
        await session.next_tokens()


async def test_a_finished_session_does_not_fail():
    session = Session(request())
    session.on_frame(frame(0, [10], finish=FinishReason.LENGTH))
    session.fail(WorkerFailed("late"))
    await session.next_tokens()
    assert await session.next_tokens() == ([], FinishReason.LENGTH)


async def test_a_waiting_reader_hears_of_a_failure():
    session = Session(request())
    asyncio.get_running_loop().call_soon(session.fail, WorkerFailed("silent"))
    with pytest.raises(WorkerFailed):
        await session.next_tokens()


async def test_the_deadline_ends_the_wait():
    session = Session(request(deadline_s=0.01))
    with pytest.raises(DeadlineExceeded):
        await session.next_tokens()


async def test_tokens_that_are_there_are_read_even_past_the_deadline():
    session = Session(request(deadline_s=0.0))
    session.on_frame(frame(0, [10]))
    assert ids_of((await session.next_tokens())[0]) == [10]


async def test_a_new_epoch_asks_for_what_is_left():
    session = Session(request([1, 2, 3], max_tokens=16))
    assert not session.place_request("gateway", "model").begun
    session.place(msgspec.structs.replace(placed(), arithmetic="bfloat16", fingerprint="f" * 16))
    assert session.place_request("gateway", "model").begun
    assert session.place_request("gateway", "model").fingerprint == ""
    session.on_frame(frame(0, [10, 11]))
    session.on_frame(frame(5, [66]))
    session.fail(WorkerFailed("silent"))
    session.begin_epoch(1)
    asked = session.place_request("gateway", "model")
    assert (asked.epoch, asked.emitted, asked.max_tokens) == (1, 2, 16)
    assert unpack_ids(asked.prompt_ids) == [1, 2, 3, 10, 11]
    assert asked.avoid == ("p0", "d0")
    assert (asked.arithmetic, asked.fingerprint) == ("bfloat16", "f" * 16)
    assert session.placed is None
    session.on_frame(frame(2, [12], 1))
    assert ids_of((await session.next_tokens())[0]) == [10, 11, 12]


async def test_what_is_left_of_the_deadline_is_asked_for():
    asked = Session(request(deadline_s=2.0)).place_request("gateway", "model")
    assert 1900 < asked.deadline_ms <= 2000


async def test_the_deadline_asked_for_is_never_nothing():
    assert Session(request(deadline_s=-1.0)).place_request("gateway", "model").deadline_ms == 1


async def test_a_bad_frame_changes_nothing():
    session = Session(request())
    with pytest.raises(ProtocolError):
        session.on_frame(frame(0, [-1]))
    session.on_frame(frame(0, [10]))
    assert session.received_tokens == 1


async def test_reports_of_another_epoch_do_not_count():
    session = Session(request())
    report = PrefillReport(worker="zombie", queue_ms=1.0, compute_ms=1.0, computed_tokens=1)
    session.on_frame(frame(0, [], 7, prefill=report, handoff=REPORT))
    assert session.timeline.timings().prefill_worker is None
    assert not session.handed_off


async def test_a_stopped_session_is_finished():
    session = Session(request())
    session.stop()
    assert session.finished


class Fleet:
    """Who lives, on a clock the test turns."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.liveness = Liveness(lambda: self.now_s)

    def beats(self, role: Role, worker: str, boot: str = "b") -> None:
        self.liveness.hear(Beat(worker=worker, role=role, boot=boot, state=WorkerState.READY, interval_ms=1000))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
async def session() -> Session:
    session = Session(request())
    session.place(placed())
    return session


@pytest.mark.parametrize(("silent", "alive"), [("p0", "d0"), ("d0", "p0")])
async def test_a_worker_that_falls_silent_fails_its_session(fleet: Fleet, session: Session, silent: str, alive: str):
    roles = {"p0": Role.PREFILL, "d0": Role.DECODE}
    for worker in (silent, alive):
        fleet.beats(roles[worker], worker)
    assert unnoticed_failure(session, fleet.liveness) is None
    fleet.now_s = 10.0
    fleet.beats(roles[alive], alive)
    failure = unnoticed_failure(session, fleet.liveness)
    assert failure is not None
    assert silent in failure.message


async def test_a_loss_counts_once_however_slow_the_reader_is(fleet: Fleet, session: Session):
    fleet.beats(Role.PREFILL, "p0")
    fleet.beats(Role.DECODE, "d0")
    assert unnoticed_failure(session, fleet.liveness) is None
    fleet.now_s = 10.0
    failure = unnoticed_failure(session, fleet.liveness)
    assert failure is not None
    session.fail(failure)
    assert unnoticed_failure(session, fleet.liveness) is None


async def test_prefill_is_needed_until_the_cache_was_handed_over(fleet: Fleet, session: Session):
    fleet.beats(Role.PREFILL, "p0")
    fleet.beats(Role.DECODE, "d0")
    assert unnoticed_failure(session, fleet.liveness) is None
    session.on_frame(frame(0, [1], handoff=REPORT))
    fleet.now_s = 10.0
    fleet.beats(Role.DECODE, "d0")
    assert unnoticed_failure(session, fleet.liveness) is None


async def test_workers_a_young_gateway_has_not_heard_get_time(
    fleet: Fleet, session: Session, monkeypatch: pytest.MonkeyPatch
):
    assert unnoticed_failure(session, fleet.liveness) is None
    monkeypatch.setattr(watch, "UNHEARD_S", -1.0)
    assert unnoticed_failure(session, fleet.liveness) is not None


async def test_a_worker_that_was_started_anew_has_lost_its_sessions(fleet: Fleet, session: Session):
    fleet.beats(Role.PREFILL, "p0")
    fleet.beats(Role.DECODE, "d0")
    assert unnoticed_failure(session, fleet.liveness) is None
    fleet.beats(Role.DECODE, "d0", boot="another")
    failure = unnoticed_failure(session, fleet.liveness)
    assert failure is not None
    assert "d0" in failure.message


async def test_a_worker_started_anew_while_the_session_was_placed_has_lost_it(fleet: Fleet):
    """Its first beat that the gateway hears is not of the start that took the session."""
    session = Session(request())
    session.place(msgspec.structs.replace(placed(), prefill_boot="b", decode_boot="before"))
    assert unnoticed_failure(session, fleet.liveness) is None
    fleet.beats(Role.PREFILL, "p0")
    fleet.beats(Role.DECODE, "d0")
    failure = unnoticed_failure(session, fleet.liveness)
    assert failure is not None
    assert "d0" in failure.message


@pytest.mark.parametrize("name", ["STALLED_S", "RESUMED_DECODE_S"])
async def test_a_session_nothing_is_heard_of_fails(
    fleet: Fleet, session: Session, monkeypatch: pytest.MonkeyPatch, name: str
):
    """For too long; or, sooner, since the gateway was cut off."""
    fleet.beats(Role.DECODE, "d0")
    session.on_frame(frame(0, [1], handoff=REPORT))
    session.heard_at_s -= 10.0
    assert unnoticed_failure(session, fleet.liveness) is None
    fleet.liveness.suspend()
    fleet.liveness.resume()
    fleet.now_s = 1.0
    assert unnoticed_failure(session, fleet.liveness) is None
    monkeypatch.setattr(watch, name, 0.5)
    assert unnoticed_failure(session, fleet.liveness) is not None


async def test_workers_of_one_name_in_two_phases_are_two(fleet: Fleet, session: Session):
    fleet.beats(Role.PREFILL, "d0")
    assert unnoticed_failure(session, fleet.liveness) is None
    assert session.heard == {}


async def test_tokens_lost_on_the_way_fail_the_session(fleet: Fleet, session: Session, monkeypatch: pytest.MonkeyPatch):
    fleet.beats(Role.PREFILL, "p0")
    fleet.beats(Role.DECODE, "d0")
    monkeypatch.setattr(watch, "MISSING_S", 0.0)
    assert unnoticed_failure(session, fleet.liveness) is None
    session.on_frame(frame(1, [11]))
    assert unnoticed_failure(session, fleet.liveness) is not None
    session.on_frame(frame(0, [10]))
    assert unnoticed_failure(session, fleet.liveness) is None


@pytest.mark.parametrize("state", ["not placed", "finished"])
async def test_without_workers_to_lose_nothing_fails(fleet: Fleet, session: Session, state: str):
    if state == "finished":
        session.stop()
    else:
        session.begin_epoch(1)
    fleet.now_s = 10.0
    session.heard = {(Role.PREFILL, "p0"): "b", (Role.DECODE, "d0"): "b"}
    assert unnoticed_failure(session, fleet.liveness) is None
