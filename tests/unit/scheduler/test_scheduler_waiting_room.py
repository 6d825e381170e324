"""The queue: order of arrival, limit, deadline, cancel, and that everybody's turn comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from scheduler_words import request, settle

from services.scheduler.placer import Placement
from services.scheduler.waiting_room import RETRY_MAX_MS, RETRY_MIN_MS, WaitingRoom
from shared.errors import BatonError, Cancelled, DeadlineExceeded, Draining, InvalidRequest, Overloaded, Unavailable
from shared.protocol.to_scheduler import PlaceRequest
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)


class Seats:
    """A fleet of so many seats. While `hold` is not set, whoever is being placed waits for it."""

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.placed: list[int] = []
        self.attempts: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.attempted = asyncio.Event()
        self.error: BatonError | None = None
        self.while_held: Callable[[], None] = lambda: None

    async def place(self, what: PlaceRequest, _deadline_ms: int, _left_to_others: frozenset[str]) -> Placement | None:
        number = int(what.session, 16)
        self.attempts.append(number)
        self.attempted.set()
        has_room = self.free > 0
        if has_room:
            self.free -= 1
        self.while_held()
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        if not has_room:
            return None
        self.placed.append(number)
        return Placement(prefill="p", decode="d")


@pytest.fixture
def seats() -> Seats:
    return Seats()


@pytest.fixture
def room(seats: Seats) -> WaitingRoom:
    return WaitingRoom(seats.place, limit=5)


async def outcome(room: WaitingRoom, what: PlaceRequest) -> Placement | BatonError:
    try:
        return await room.place(what)
    except BatonError as error:
        return error


async def enter(room: WaitingRoom, tasks: Tasks, *numbers: int) -> list[asyncio.Task[Placement | BatonError]]:
    entered = [tasks.start(outcome(room, request(number)), name=str(number)) for number in numbers]
    await settle()
    return entered


def empty(room: WaitingRoom) -> bool:
    return (len(room), room.inside) == (0, 0)


async def test_with_room_it_is_placed_at_once(room: WaitingRoom, seats: Seats) -> None:
    seats.free = 1
    assert await room.place(request()) == Placement(prefill="p", decode="d")
    assert empty(room)


async def test_those_who_wait_are_placed_in_the_order_they_came(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    waiting = await enter(room, tasks, 1, 2, 3)
    for free in (1, 2):
        seats.free = free
        room.fleet_changed()
        await settle()
    assert seats.placed == [1, 2, 3]
    assert all(task.done() for task in waiting)
    assert empty(room)


async def test_a_newer_epoch_takes_the_place_of_the_older(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    older, other = await enter(room, tasks, 1, 2)
    tasks.start(outcome(room, request(1, epoch=1)), name="newer")
    await settle()
    assert isinstance(await older, Cancelled)
    assert not other.done()
    seats.free = 1
    room.fleet_changed()
    await settle()
    assert seats.placed == [1]
    assert len(room) == 1


async def test_a_stream_that_lost_its_workers_goes_before_those_that_have_not_begun(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    """However many wait: its client is in the middle of reading it."""
    await enter(room, tasks, *range(1, 6))
    resumed = [request(number, epoch=1, emitted=3, begun=True) for number in (6, 7)]
    entered = [tasks.start(outcome(room, what), name=what.session) for what in resumed]
    await settle()
    assert len(room) == 7
    seats.free = 3
    room.fleet_changed()
    await settle()
    assert seats.placed == [6, 7, 1]
    assert all(task.done() for task in entered)


async def test_a_stream_that_lost_its_workers_takes_a_free_seat_at_once(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    await enter(room, tasks, 1)
    seats.free = 1
    assert await room.place(request(2, epoch=1, emitted=3, begun=True)) == Placement(prefill="p", decode="d")


async def test_one_change_that_frees_many_seats_fills_them_all(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    await enter(room, tasks, 1, 2, 3, 4)
    seats.free = 3
    room.fleet_changed()
    await settle()
    assert seats.placed == [1, 2, 3]
    assert len(room) == 1


async def test_nobody_overtakes_those_who_wait(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    await enter(room, tasks, 1)
    seats.free = 1
    await enter(room, tasks, 2)
    assert seats.placed == []
    room.fleet_changed()
    await settle()
    assert seats.placed == [1]


async def test_one_whose_first_attempt_was_slow_keeps_its_place(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    seats.hold.clear()
    await enter(room, tasks, 1)
    slow, seats.hold = seats.hold, asyncio.Event()
    seats.hold.set()
    await enter(room, tasks, 2, 3)
    slow.set()
    await settle()
    seats.free = 3
    room.fleet_changed()
    await settle()
    assert seats.placed == [1, 2, 3]


async def test_a_change_during_the_first_attempt_is_not_missed(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    """The worker said it has room right after it had refused: no other change may come for long."""

    def change() -> None:
        seats.while_held = lambda: None
        seats.free = 1
        room.fleet_changed()

    seats.while_held = change
    await enter(room, tasks, 1)
    assert seats.placed == [1]


async def test_a_change_during_the_attempt_of_the_head_is_not_missed(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    await enter(room, tasks, 1)

    def change() -> None:
        seats.while_held = lambda: None
        seats.free = 1
        room.fleet_changed()

    seats.while_held = change
    room.fleet_changed()
    await settle()
    assert seats.placed == [1]


async def test_without_a_change_nobody_tries_again(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    await enter(room, tasks, 1, 2)
    assert seats.attempts == [1]
    room.fleet_changed()
    await settle()
    assert seats.attempts == [1, 1]


async def test_beyond_the_limit_it_is_overloaded(room: WaitingRoom, tasks: Tasks) -> None:
    await enter(room, tasks, *range(5))
    with pytest.raises(Overloaded) as raised:
        await room.place(request(9))
    assert raised.value.retry_after_ms == RETRY_MIN_MS
    assert (len(room), room.inside) == (5, 5)


async def test_the_deadline_ends_the_wait(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    waiting = await enter(room, tasks, 1)
    with pytest.raises(DeadlineExceeded):
        await room.place(request(2, deadline_ms=30))
    assert (len(room), room.inside) == (1, 1)
    assert not waiting[0].done()


async def test_a_deadline_that_has_passed_asks_nobody(room: WaitingRoom, seats: Seats) -> None:
    with pytest.raises(DeadlineExceeded):
        await room.place(request(deadline_ms=0))
    assert seats.attempts == []
    assert empty(room)


async def test_the_deadline_ends_an_attempt_too(room: WaitingRoom, seats: Seats) -> None:
    seats.hold.clear()
    with pytest.raises(DeadlineExceeded):
        await room.place(request(deadline_ms=30))
    assert empty(room)


async def test_when_the_head_gives_up_the_next_one_tries(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    await enter(room, tasks, 1, 2)
    seats.free = 1
    room.cancel(request(1).session, 0)
    await settle()
    assert seats.placed == [2]
    assert empty(room)


async def test_a_cancel_ends_the_wait_wherever_in_the_queue(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    waiting = await enter(room, tasks, 1, 2, 3)
    room.cancel(request(2).session, 0)
    await settle()
    assert isinstance(waiting[1].result(), Cancelled)
    seats.free = 2
    room.fleet_changed()
    await settle()
    assert seats.placed == [1, 3]
    assert empty(room)


async def test_a_cancel_of_an_older_epoch_or_of_nobody_changes_nothing(room: WaitingRoom, tasks: Tasks) -> None:
    waiting = tasks.start(outcome(room, request(1, epoch=1)), name="1.1")
    await settle()
    room.cancel(request(1).session, 0)
    room.cancel(request(2).session, 1)
    await settle()
    assert not waiting.done()


async def test_a_cancel_of_a_later_epoch_ends_the_wait_too(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    """Who takes a session over shuts all epochs of its dead gateway out, and knows none of them."""
    (waiting,) = await enter(room, tasks, 1)
    room.cancel(request(1).session, 1 << 16)
    await settle()
    assert isinstance(waiting.result(), Cancelled)
    assert seats.attempts == [1]
    assert empty(room)


async def test_a_cancel_while_placing_counts_when_there_was_no_room(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    seats.hold.clear()
    (placing,) = await enter(room, tasks, 1)
    room.cancel(request(1).session, 0)
    seats.hold.set()
    await settle()
    assert isinstance(placing.result(), Cancelled)
    assert empty(room)


async def test_a_placement_made_before_its_cancel_was_heard_is_the_callers_to_undo(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    seats.free = 1
    seats.hold.clear()
    (placing,) = await enter(room, tasks, 1)
    room.cancel(request(1).session, 0)
    seats.hold.set()
    await settle()
    assert isinstance(placing.result(), Placement)
    assert empty(room)


async def test_an_error_while_placing_leaves_the_room_and_wakes_the_next(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    waiting = await enter(room, tasks, 1, 2)
    seats.error = Unavailable("no worker")
    room.fleet_changed()
    await settle()
    assert [type(task.result()) for task in waiting] == [Unavailable, Unavailable]
    assert empty(room)
    with pytest.raises(Unavailable):
        await room.place(request(3))
    assert empty(room)


async def test_a_caller_that_goes_away_leaves_nothing_behind(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    waiting = await enter(room, tasks, 1, 2, 3)
    waiting[0].cancel()
    waiting[2].cancel()
    await settle()
    assert (len(room), room.inside) == (1, 1)
    seats.free = 1
    room.fleet_changed()
    await settle()
    assert seats.placed == [2]
    assert empty(room)


async def test_a_caller_that_goes_away_while_placing_wakes_the_next(
    room: WaitingRoom, seats: Seats, tasks: Tasks
) -> None:
    waiting = await enter(room, tasks, 1, 2)
    seats.hold.clear()
    room.fleet_changed()
    await settle()
    waiting[0].cancel()
    seats.hold.set()
    seats.free = 1
    await settle()
    assert seats.placed == [2]
    assert empty(room)


async def test_the_same_request_twice_keeps_both_accounted_for(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    waiting = await enter(room, tasks, 1, 1)
    waiting[0].cancel()
    await settle()
    assert room.inside == 1
    room.cancel(request(1).session, 0)
    await settle()
    assert isinstance(waiting[1].result(), Cancelled)
    assert empty(room)


async def test_closing_sends_those_who_wait_elsewhere(room: WaitingRoom, seats: Seats, tasks: Tasks) -> None:
    waiting = await enter(room, tasks, 1, 2, 3)
    room.close()
    await settle()
    assert [type(task.result()) for task in waiting] == [Draining] * 3
    assert empty(room)


async def test_retry_after_follows_the_queue_and_the_rate(seats: Seats, tasks: Tasks) -> None:
    now_s = 100.0
    room = WaitingRoom(seats.place, limit=1000, clock=lambda: now_s)
    seats.free = 10
    for number in range(10):
        await room.place(request(number))
        now_s += 2.0
    await enter(room, tasks, *range(10, 14))
    assert room.retry_after_ms() == 2000 * 5
    now_s += RETRY_MAX_MS
    assert room.retry_after_ms() == RETRY_MIN_MS, "a rate from long ago says nothing"


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_everyone_is_answered_in_order_and_nothing_is_left(tasks: Tasks, seed: int) -> None:
    """Arrivals, cancels, callers that leave, seats that come and go, in random order."""
    rng = random.Random(seed)
    seats = Seats()
    room = WaitingRoom(seats.place, limit=30)
    entered: dict[int, asyncio.Task[Placement | BatonError]] = {}
    for number in range(200):
        match rng.randrange(5):
            case 0 | 1:
                entered[number] = tasks.start(outcome(room, request(number)), name=str(number))
            case 2 if entered:
                room.cancel(request(rng.choice(list(entered))).session, 0)
            case 3 if entered:
                entered[rng.choice(list(entered))].cancel()
            case 4:
                seats.free += rng.randrange(3)
                room.fleet_changed()
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
    seats.free += len(entered)
    room.fleet_changed()
    await settle()
    assert all(task.done() for task in entered.values())
    assert empty(room)
    assert seats.placed == sorted(seats.placed)
    allowed = (Placement, Cancelled, Overloaded)
    assert all(task.cancelled() or isinstance(task.result(), allowed) for task in entered.values())


async def test_an_invalid_request_behind_the_head_does_not_stop_the_queue(tasks: Tasks) -> None:
    open_now = False

    async def place(what: PlaceRequest, _deadline_ms: int, _left_to_others: frozenset[str]) -> Placement | None:
        if not open_now:
            return None
        if int(what.session, 16) == 1:
            raise InvalidRequest("no")
        return Placement(prefill="p", decode="d")

    room = WaitingRoom(place, limit=5)
    waiting = await enter(room, tasks, 0, 1, 2)
    open_now = True
    room.fleet_changed()
    await settle()
    assert [type(task.result()) for task in waiting] == [Placement, InvalidRequest, Placement]
