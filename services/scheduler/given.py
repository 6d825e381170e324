"""What the scheduler has placed on workers and their beats do not say yet. Soft state, no I/O."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shared.core import Role
from shared.protocol.to_all import Beat

Worker = tuple[Role, str]


class Given(msgspec.Struct, eq=False):
    """One session, or its prompt, for one worker: asked for until the worker has answered, then held by it."""

    worker: Worker
    session: str
    kv_bytes: int = 0
    sessions: int = 0
    tokens: int = 0
    boot: str | None = None
    beat: int = 0

    def held_by(self, boot: str, beat: int) -> None:
        """The worker has it, in the start `boot`. Its last beat before it said so had the number `beat`."""
        self.boot, self.beat = boot, beat

    def is_in(self, beat: Beat) -> bool:
        """Whether `beat` says it itself: it tells of it before the answer is here, or was sent after the answer."""
        answered = self.boot is not None and (beat.boot != self.boot or beat.number > self.beat)
        return answered or self.session in beat.taken


class Load(msgspec.Struct, frozen=True):
    """Sums over what one worker was given."""

    kv_bytes: int = 0
    sessions: int = 0
    tokens: int = 0


class GivenLoad:
    """All that was given and is in no beat yet."""

    def __init__(self) -> None:
        self._by_worker: dict[Worker, list[Given]] = {}

    def all(self) -> list[Given]:
        """Whatever the worker."""
        return [given for all_given in self._by_worker.values() for given in all_given]

    def add(self, given: Given) -> None:
        self._by_worker.setdefault(given.worker, []).append(given)

    def drop(self, given: Given) -> None:
        """Idempotent."""
        self._keep(given.worker, lambda other: other is not given)

    def hear(self, beat: Beat) -> None:
        """Drop what `beat` says itself."""
        self._keep((beat.role, beat.worker), lambda given: not given.is_in(beat))

    def forget(self, is_alive: Callable[[Role, str], bool]) -> None:
        """Drop what was given to workers that do not live."""
        for worker in list(self._by_worker):
            if not is_alive(*worker):
                del self._by_worker[worker]

    def on(self, beat: Beat) -> Load:
        """What the worker of `beat` was given."""
        all_given = self._by_worker.get((beat.role, beat.worker), ())
        return Load(
            kv_bytes=sum(given.kv_bytes for given in all_given),
            sessions=sum(given.sessions for given in all_given),
            tokens=sum(given.tokens for given in all_given),
        )

    def _keep(self, worker: Worker, stays: Callable[[Given], bool]) -> None:
        kept = [given for given in self._by_worker.pop(worker, ()) if stays(given)]
        if kept:
            self._by_worker[worker] = kept
