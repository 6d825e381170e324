"""What the scheduler knows of the workers: their beats, and what it has given them since. Soft state, no I/O."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.scheduler.affinity import Cached, start_of
from services.scheduler.given import Given, GivenLoad
from shared.bus.liveness import Liveness
from shared.core import Role
from shared.protocol.to_all import Beat

SETTLE_S = 2.0
NOTHING_CACHED: Cached = {}


class Fleet:
    """Ranks workers for a request. What was placed on a worker, and is in none of its beats yet, counts as load."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, own_interval_s: float | None = None) -> None:
        """`own_interval_s` of a scheduler that calls `liveness.contact` when it hears itself."""
        self.liveness = Liveness(clock, own_interval_s=own_interval_s)
        self._given = GivenLoad()
        self._clock = clock
        self._began_s = clock()
        self._heard_of: set[tuple[Role, str]] = set()

    def suspend(self) -> None:
        """Own connection is gone: nobody is taken for dead."""
        self.liveness.suspend()

    def resume(self) -> None:
        """Own connection is back."""
        self.liveness.resume()

    def hear(self, beat: Beat) -> None:
        self.liveness.hear(beat)
        self._heard_of.add((beat.role, beat.model))
        self._given.hear(beat)
        self._given.forget(self.liveness.is_alive)

    def workers(self) -> list[Beat]:
        """All that live."""
        return [beat for role in (Role.PREFILL, Role.DECODE) for beat in self.liveness.alive(role)]

    def serves(self, model: str, fingerprint: str = "") -> bool:
        """Whether both phases of `model` are alive and ready and pair, full or not; if given, in this `fingerprint`."""
        prefills = {beat.fingerprint for beat in self.liveness.ready(Role.PREFILL, model)}
        pairs = prefills & {beat.fingerprint for beat in self.liveness.ready(Role.DECODE, model)}
        return fingerprint in pairs if fingerprint else bool(pairs)

    def knows(self, model: str) -> bool:
        """Whether what is not seen of `model` is not there: a young scheduler may just not have heard it yet."""
        if self._clock() - self._began_s > SETTLE_S:
            return True
        return {(Role.PREFILL, model), (Role.DECODE, model)} <= self._heard_of

    def models(self) -> set[str]:
        return {beat.model for beat in self.workers()}

    def decodes(self, model: str, capacity_tokens: int, cached: Cached = NOTHING_CACHED) -> list[Beat]:
        """Decode workers with room for `capacity_tokens`, the least loaded first.

        Of equally loaded ones, first the one that holds the longest beginning of the prompt: less is sent to it.
        """
        ready = self.liveness.ready(Role.DECODE, model)
        roomy = [beat for beat in ready if self._free_bytes(beat) >= capacity_tokens * beat.kv_token_bytes]
        open_seats = [beat for beat in roomy if self._sessions(beat) < beat.session_limit]
        return sorted(
            open_seats,
            key=lambda beat: (
                self._sessions(beat),
                -cached.get(start_of(beat), 0),
                -self._free_bytes(beat),
                beat.worker,
            ),
        )

    def prefills(
        self, model: str, prompt_tokens: int, fingerprint: str | None = None, cached: Cached = NOTHING_CACHED
    ) -> list[Beat]:
        """Prefill workers that could pair with `fingerprint` and queue the prompt.

        First the one that has the fewest tokens to compute until the prompt is done: its queue, and what it has not
        cached of the prompt.
        """
        ready = self.liveness.ready(Role.PREFILL, model)
        paired = [beat for beat in ready if fingerprint is None or beat.fingerprint == fingerprint]
        roomy = [beat for beat in paired if self._queues(beat, prompt_tokens)]
        return sorted(
            roomy,
            key=lambda beat: (
                self._queued_tokens(beat) - min(cached.get(start_of(beat), 0), prompt_tokens),
                beat.sessions,
                beat.worker,
            ),
        )

    def never_fits(self, model: str, capacity_tokens: int, fingerprint: str = "") -> bool:
        """Whether no live decode, if given of this `fingerprint`, could hold so much even when empty."""
        ready = self.liveness.ready(Role.DECODE, model)
        ready = [beat for beat in ready if fingerprint in ("", beat.fingerprint)]
        return bool(ready) and all(capacity_tokens * beat.kv_token_bytes > beat.kv_total_bytes for beat in ready)

    def give_decode(self, beat: Beat, session: str, capacity_tokens: int) -> Given:
        """This worker is being asked to take a session. Ends with `answered` or `refused`."""
        kv_bytes = capacity_tokens * beat.kv_token_bytes
        return self._give(Given((beat.role, beat.worker), session, kv_bytes=kv_bytes, sessions=1))

    def give_prefill(self, beat: Beat, session: str, prompt_tokens: int) -> Given:
        """This worker is being asked to take a prompt. Ends with `answered` or `refused`."""
        return self._give(Given((beat.role, beat.worker), session, tokens=prompt_tokens))

    def answered(self, given: Given, boot: str, beat: int) -> None:
        """The worker has taken it in its start `boot`: its beats beyond the number `beat` say so themselves."""
        given.held_by(boot, beat)
        heard = self.liveness.beat(*given.worker)
        if heard is None or given.is_in(heard):
            self._given.drop(given)

    def refused(self, given: Given) -> None:
        """The worker does not have it, or will not for long. Idempotent."""
        self._given.drop(given)

    def _give(self, given: Given) -> Given:
        self._given.add(given)
        return given

    def _free_bytes(self, beat: Beat) -> int:
        return beat.kv_free_bytes - self._given.on(beat).kv_bytes

    def _sessions(self, beat: Beat) -> int:
        return beat.sessions + self._given.on(beat).sessions

    def _queued_tokens(self, beat: Beat) -> int:
        return beat.queued_tokens + self._given.on(beat).tokens

    def _queues(self, beat: Beat, prompt_tokens: int) -> bool:
        """A prefill worker takes any prompt while its queue is empty, and up to its limit otherwise."""
        queued_tokens = self._queued_tokens(beat)
        return not queued_tokens or queued_tokens + prompt_tokens <= beat.queue_limit_tokens
