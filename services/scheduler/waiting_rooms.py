"""Waiting rooms by what is waited for: who waits for one model is not in the way of another. `SchedulerService` has it.

A begun stream that must stay with one build of its model, a fingerprint, waits in a room of its own kind.
"""

from __future__ import annotations

from collections.abc import Callable

from services.scheduler.placer import Placement
from services.scheduler.waiting_room import TryPlace, WaitingRoom
from shared.protocol.to_scheduler import PlaceRequest


class WaitingRooms:
    """All that wait at this scheduler, up to `limit` in each room.

    `wanted_elsewhere` is what begun streams wait for at other schedulers: nobody new takes it from them.
    `begun_changed` is called when begun streams wait here for something else than before.
    """

    def __init__(
        self,
        try_place: TryPlace,
        limit: int,
        wanted_elsewhere: Callable[[], frozenset[str]],
        begun_changed: Callable[[], None],
    ) -> None:
        self._try_place = try_place
        self._limit = limit
        self._wanted_elsewhere = wanted_elsewhere
        self._begun_changed = begun_changed
        self._rooms: dict[str, WaitingRoom] = {}
        self._begun: frozenset[str] = frozenset()

    @property
    def inside(self) -> int:
        """Requests waiting or being placed."""
        return sum(room.inside for room in self._rooms.values())

    @property
    def begun(self) -> frozenset[str]:
        """What streams wait for here that have begun: fingerprints, and models whose every worker will do."""
        return self._begun

    async def place(self, request: PlaceRequest) -> Placement:
        """See `WaitingRoom.place`."""
        wanted = request.fingerprint or request.model
        room = self._rooms.get(wanted)
        if room is None:
            room = self._rooms[wanted] = WaitingRoom(self._try_place, self._limit, self._wanted, self._queue_changed)
        try:
            return await room.place(request)
        finally:
            if not room.inside and not room.has_placed:
                # Whatever name was asked for: rooms of models that nobody serves do not stay.
                self._rooms.pop(wanted, None)

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

    def _wanted(self) -> frozenset[str]:
        return self._begun | self._wanted_elsewhere()

    def _queue_changed(self) -> None:
        begun = frozenset(wanted for wanted, room in self._rooms.items() if room.begun_waits)
        if begun != self._begun:
            self._begun = begun
            self._begun_changed()
            # What nobody begun waits for any more is there for others.
            self.fleet_changed()
