"""What the scheduler knows of the workers: their beats, and what it has given them since. Soft state, no I/O."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from shared.bus.liveness import Liveness
from shared.core import Role
from shared.protocol.to_all import Beat


class Fleet:
    """Ranks workers for a request. Between two beats of a worker, what was placed on it since counts as load."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._liveness = Liveness(clock)
        self._given_bytes: defaultdict[str, int] = defaultdict(int)
        self._given_sessions: defaultdict[str, int] = defaultdict(int)
        self._given_tokens: defaultdict[str, int] = defaultdict(int)

    def hear(self, beat: Beat) -> None:
        self._liveness.hear(beat)
        for given in (self._given_bytes, self._given_sessions, self._given_tokens):
            given.pop(beat.worker, None)

    def serves(self, model: str) -> bool:
        """Whether both phases of `model` are alive and ready, full or not."""
        return all(self._liveness.ready(role, model) for role in (Role.PREFILL, Role.DECODE))

    def models(self) -> set[str]:
        return {beat.model for role in (Role.PREFILL, Role.DECODE) for beat in self._liveness.alive(role)}

    def decodes(self, model: str, capacity_tokens: int) -> list[Beat]:
        """Decode workers with room for `capacity_tokens`, the least loaded first."""
        ready = self._liveness.ready(Role.DECODE, model)
        roomy = [beat for beat in ready if self._free_bytes(beat) >= capacity_tokens * beat.kv_token_bytes]
        open_seats = [beat for beat in roomy if self._sessions(beat) < beat.session_limit]
        return sorted(open_seats, key=lambda beat: (self._sessions(beat), -self._free_bytes(beat), beat.worker))

    def prefills(self, model: str, fingerprint: str | None = None) -> list[Beat]:
        """Prefill workers that could pair with `fingerprint`, the shortest queue first."""
        ready = self._liveness.ready(Role.PREFILL, model)
        paired = [beat for beat in ready if fingerprint is None or beat.fingerprint == fingerprint]
        return sorted(paired, key=lambda beat: (self._queued_tokens(beat), beat.sessions, beat.worker))

    def never_fits(self, model: str, capacity_tokens: int) -> bool:
        """Whether no live decode could hold so much even when empty."""
        ready = self._liveness.ready(Role.DECODE, model)
        return bool(ready) and all(capacity_tokens * beat.kv_token_bytes > beat.kv_total_bytes for beat in ready)

    def give_decode(self, beat: Beat, capacity_tokens: int, sessions: int = 1) -> None:
        """A session is being placed on this worker; its next beat will say so itself. Minus one takes it back."""
        self._given_bytes[beat.worker] += sessions * capacity_tokens * beat.kv_token_bytes
        self._given_sessions[beat.worker] += sessions

    def give_prefill(self, beat: Beat, prompt_tokens: int) -> None:
        """A prompt is being placed on this worker; its next beat will say so itself. Negative takes it back."""
        self._given_tokens[beat.worker] += prompt_tokens

    def _free_bytes(self, beat: Beat) -> int:
        return beat.kv_free_bytes - max(0, self._given_bytes.get(beat.worker, 0))

    def _sessions(self, beat: Beat) -> int:
        return beat.sessions + max(0, self._given_sessions.get(beat.worker, 0))

    def _queued_tokens(self, beat: Beat) -> int:
        return beat.queued_tokens + max(0, self._given_tokens.get(beat.worker, 0))
