"""The runs a prefill worker holds, and how each of them ends. `worker` takes them up, `compute` advances them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from services.prefill.queue import RunQueue
from services.prefill.run import PrefillRun, RunState
from shared.bus.data_plane.connection import Listening
from shared.core import Role
from shared.engine.contract import Engine
from shared.errors import BatonError
from shared.kv.sender import Sender
from shared.protocol import subjects
from shared.protocol.to_decode import Cancel, CreditProbe
from shared.runtime.tasks import Tasks
from shared.runtime.worker_links import WorkerLinks

RENEW_CLAIM_S = 5.0
_NOT_COMPUTED = (RunState.QUEUED, RunState.COMPUTING)


class Held:
    """A run with what must be closed when it ends."""

    def __init__(self, run: PrefillRun, sender: Sender) -> None:
        self.run = run
        self.sender = sender
        self.feedback: Listening | None = None
        self.transfer: asyncio.Task[None] | None = None
        self.claim_renewed_s = time.monotonic()


class HeldRuns:
    """All runs from the order to the end of the hand-off. `freed` is called after each that is gone."""

    def __init__(
        self, engine: Engine, queue: RunQueue, links: WorkerLinks, tasks: Tasks, *, freed: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._queue = queue
        self._links = links
        self._tasks = tasks
        self._freed = freed
        self._held: dict[str, Held] = {}
        self._computing: frozenset[str] = frozenset()
        self._call_began_s = 0.0
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __getitem__(self, key: str) -> Held:
        return self._held[key]

    def find(self, key: str) -> Held | None:
        return self._held.get(key)

    def add(self, held: Held) -> None:
        self._held[held.run.key] = held

    async def emptied(self) -> None:
        """Wait until none is held."""
        while self._held:
            self._emptied.clear()
            await self._emptied.wait()

    @contextmanager
    def computing(self, batch: Iterable[Held]) -> Iterator[None]:
        """While the engine works on `batch`. Those that ended meanwhile are freed afterwards, never before."""
        batch = list(batch)
        self._computing = frozenset(held.run.key for held in batch)
        self._call_began_s = time.monotonic()
        try:
            yield
        finally:
            self._computing = frozenset()
            for held in batch:
                if held.run.state is RunState.ENDED:
                    self._release(held)

    def give_up(self, held: Held, error: BatonError) -> None:
        """End the run with an error to its gateway, and release the claim that waits for it."""
        if held.run.state is RunState.ENDED:
            return
        self._links.send_frames([(held.run.order.gateway, held.run.error_frame(error))])
        self.cancel_decode(held.run, str(error))
        self.end(held)

    def cancel_decode(self, run: PrefillRun, reason: str) -> None:
        cancel = Cancel(session=run.order.session, epoch=run.order.epoch, reason=reason)
        self._links.control_out.post(subjects.cancel(Role.DECODE, run.order.decode), cancel)

    def renew_claim(self, held: Held, now_s: float) -> None:
        """Decode gives up a claim it hears nothing of; one that waits or is computed here is still wanted.

        It may be long until the first token is computed that decode does not have. A call that lasts may hang: then
        decode shall hear nothing.
        """
        if held.run.state not in _NOT_COMPUTED or now_s - held.claim_renewed_s <= RENEW_CLAIM_S:
            return
        if held.run.key in self._computing and now_s - self._call_began_s > RENEW_CLAIM_S:
            return
        held.claim_renewed_s = now_s
        order = held.run.order
        probe = CreditProbe(transfer=order.transfer, published_bytes=0)
        self._links.kv_out.post(subjects.kv_probe(order.session, order.epoch), probe)

    def end(self, held: Held) -> None:
        """Free the run now, or right after the engine call it is in."""
        if held.run.state is RunState.ENDED:
            return
        held.run.advance(RunState.ENDED)
        self._queue.remove(held.run)
        if held.run.key not in self._computing:
            self._release(held)

    def _release(self, held: Held) -> None:
        if self._held.pop(held.run.key, None) is None:
            return
        if held.transfer is not None and held.transfer is not asyncio.current_task():
            held.transfer.cancel()
        self._engine.close(held.run.key)
        if held.feedback is not None:
            self._tasks.start(held.feedback.close(), name="unsubscribe")
        self._freed()
        self._links.changed()
        if not self._held:
            self._emptied.set()
