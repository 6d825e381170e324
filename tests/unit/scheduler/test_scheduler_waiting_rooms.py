"""Rooms by model, and begun streams that wait at another scheduler."""

from __future__ import annotations

import pytest
from scheduler_words import request, settle

from services.scheduler.placer import Placement
from services.scheduler.waiting_rooms import WaitingRooms
from shared.errors import BatonError, Cancelled, Draining, Overloaded, Unavailable
from shared.protocol.to_scheduler import PlaceRequest
from shared.runtime.tasks import Tasks

pytestmark = pytest.mark.timeout(20)


class Setting:
    """What is `full` has no room, what is `unknown` no worker; begun streams of another scheduler want `elsewhere`."""

    def __init__(self) -> None:
        self.full: set[str] = set()
        self.unknown: set[str] = set()
        self.elsewhere: set[str] = set()
        self.told: list[set[str]] = []
        self.placed: list[str] = []
        self.left: list[frozenset[str]] = []
        self.rooms = WaitingRooms(self._try_place, 2, lambda: frozenset(self.elsewhere), self._begun_changed)

    async def place(self, number: int, model: str, **changes: object) -> Placement | BatonError:
        try:
            return await self.rooms.place(request(number, model=model, **changes))
        except BatonError as error:
            return error

    def changed(self) -> None:
        self.rooms.fleet_changed()

    async def _try_place(
        self, what: PlaceRequest, _deadline_ms: int, left_to_others: frozenset[str]
    ) -> Placement | None:
        if what.model in self.unknown:
            raise Unavailable("nobody")
        if self.full & {what.model, what.fingerprint}:
            return None
        self.placed.append(what.model)
        self.left.append(left_to_others)
        return Placement(prefill="p", decode="d")

    def _begun_changed(self) -> None:
        self.told.append(set(self.rooms.begun))


@pytest.fixture
def it() -> Setting:
    return Setting()


async def test_a_model_without_room_is_not_in_the_way_of_another(it: Setting, tasks: Tasks) -> None:
    it.full = {"a"}
    waiting = [tasks.start(it.place(number, "a"), name="a") for number in range(2)]
    await settle()
    assert isinstance(await it.place(3, "a"), Overloaded)
    assert isinstance(await it.place(4, "b"), Placement)
    assert (it.rooms.inside, it.placed) == (2, ["b"])
    it.full = set()
    it.changed()
    assert [type(await task) for task in waiting] == [Placement, Placement]
    assert it.rooms.inside == 0


async def test_a_model_that_nobody_serves_leaves_no_room_behind(it: Setting) -> None:
    it.unknown = {f"name-{number}" for number in range(50)}
    for model in it.unknown:
        assert isinstance(await it.place(1, model), Unavailable)
    assert isinstance(await it.place(1, "served"), Placement)
    assert list(it.rooms._rooms) == ["served"]


async def test_nobody_new_is_placed_before_a_stream_that_waits_elsewhere(it: Setting, tasks: Tasks) -> None:
    it.elsewhere = {"a"}
    new = tasks.start(it.place(1, "a"), name="new")
    await settle()
    it.changed()
    await settle()
    assert not new.done()
    assert isinstance(await it.place(2, "a", epoch=1, emitted=3, begun=True), Placement)
    assert isinstance(await it.place(3, "b"), Placement)
    assert not new.done()
    it.elsewhere = set()
    it.changed()
    assert isinstance(await new, Placement)


async def test_others_learn_which_models_have_begun_streams_that_wait(it: Setting, tasks: Tasks) -> None:
    it.full = {"a", "b"}
    tasks.start(it.place(1, "a"), name="new")
    await settle()
    assert it.told == []
    begun = [
        tasks.start(it.place(2 + number, "a", epoch=1, emitted=3, begun=True), name="begun") for number in range(2)
    ]
    tasks.start(it.place(9, "b", epoch=1, emitted=3, begun=True), name="begun")
    await settle()
    assert it.told == [{"a"}, {"a", "b"}]
    it.full = {"b"}
    it.changed()
    assert [type(await task) for task in begun] == [Placement, Placement]
    await settle()
    assert it.told[2:] == [{"b"}]
    it.rooms.cancel(request(9).session, 1)
    await settle()
    assert it.told[3:] == [set()]


async def test_a_begun_stream_that_waits_for_one_build_leaves_the_others_to_who_has_not_begun(
    it: Setting, tasks: Tasks
) -> None:
    """As while the weights of a model are replaced, worker by worker."""
    it.full = {"old"}
    begun = tasks.start(it.place(1, "a", epoch=1, emitted=3, begun=True, fingerprint="old"), name="begun")
    await settle()
    assert it.told == [{"old"}]
    it.elsewhere = {"older"}
    assert isinstance(await it.place(2, "a"), Placement)
    assert isinstance(await it.place(3, "a", epoch=1, emitted=3, begun=True, fingerprint="new"), Placement)
    assert it.left == [{"old", "older"}, frozenset()]
    it.full = set()
    it.changed()
    assert isinstance(await begun, Placement)


async def test_cancel_and_close_reach_all_rooms(it: Setting, tasks: Tasks) -> None:
    it.full = {"a", "b"}
    first, second, third = (tasks.start(it.place(number, "ab"[number % 2]), name="waits") for number in range(3))
    await settle()
    it.rooms.cancel(request(1).session, 0)
    assert isinstance(await second, Cancelled)
    it.rooms.close()
    assert {type(await task) for task in (first, third)} == {Draining}
    assert (it.rooms.inside, it.rooms._rooms) == (0, {})
