"""A waiting room for each model: who waits for one is not in the way of another. `SchedulerService` has it."""

from __future__ import annotations

from collections.abc import Callable

from services.scheduler.placer import Placement
from services.scheduler.waiting_room import TryPlace, WaitingRoom
from shared.protocol.to_scheduler import PlaceRequest


class WaitingRooms:
    """All that wait at this scheduler, up to `limit` for each model.

    `begun_elsewhere` says whether streams of a model that have begun wait at another scheduler: nobody new is placed
    before them. `begun_changed` is called when it is another set of models whose begun streams wait here.
    """

    def __init__(
        self,
        try_place: TryPlace,
        limit: int,
        begun_elsewhere: Callable[[str], bool],
        begun_changed: Callable[[], None],
    ) -> None:
        self._try_place = try_place
        self._limit = limit
        self._begun_elsewhere = begun_elsewhere
        self._begun_changed = begun_changed
        self._rooms: dict[str, WaitingRoom] = {}
        self._begun: frozenset[str] = frozenset()

    @property
    def inside(self) -> int:
        """Requests waiting or being placed."""
        return sum(room.inside for room in self._rooms.values())

    @property
    def begun(self) -> frozenset[str]:
        """Models whose streams have begun, lost their workers, and wait here for others."""
        return self._begun

    async def place(self, request: PlaceRequest) -> Placement:
        """See `WaitingRoom.place`."""
        model = request.model
        room = self._rooms.get(model)
        if room is None:
            room = self._rooms[model] = WaitingRoom(
                self._try_place, self._limit, lambda: self._begun_elsewhere(model), self._queue_changed
            )
        try:
            return await room.place(request)
        finally:
            if not room.inside and not room.has_placed:
                # Whatever name was asked for: rooms of models that nobody serves do not stay.
                self._rooms.pop(model, None)

    def cancel(self, session: str, epoch: int) -> None:
        """See `WaitingRoom.cancel`."""
        for room in self._rooms.values():
            room.cancel(session, epoch)

    def close(self) -> None:
        """See `WaitingRoom.close`."""
        for room in self._rooms.values():
            room.close()

    def fleet_changed(self) -> None:
        """A worker or another scheduler said something new: the heads may try again."""
        for room in self._rooms.values():
            room.fleet_changed()

    def _queue_changed(self) -> None:
        begun = frozenset(model for model, room in self._rooms.items() if room.begun_waits)
        if begun != self._begun:
            self._begun = begun
            self._begun_changed()
