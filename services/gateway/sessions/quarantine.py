"""Prompts that may have ended workers, and those that have: they are refused for a while. Plain object, no I/O.

A strike is one worker that died, or whose engine raised, while it had the prompt in hand. The second one convicts, if
it struck another start of a worker of the same phase, and is proven: no other session can have caused it. `Suspicion`
says what is proven. Where workers have just died without the prompt as well, it takes a third one: somebody may be
killing them.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import msgspec

from shared.core import Role
from shared.errors import Quarantined
from shared.protocol.wire import pack_ids
from shared.runtime.beats import same_process

LIMIT = 1024
OTHER_DEATHS_S = 60.0
OTHER_DEATHS_LIMIT = 64


def prompt_key(prompt_ids: Sequence[int]) -> str:
    """The name of a prompt: 32 hex digits, equal for equal tokens."""
    return hashlib.blake2b(pack_ids(prompt_ids), digest_size=16).hexdigest()


Start = tuple[Role, str, str]


class Strike(msgspec.Struct, frozen=True):
    """The worker, and which start of it, that was struck. `silent`: it is only not heard any more."""

    role: Role
    worker: str
    boot: str
    silent: bool = False

    @property
    def start(self) -> Start:
        return self.role, self.worker, self.boot


class _Case(msgspec.Struct):
    strikes: list[Strike]
    until_s: float
    convicted: bool = False


class Quarantine:
    """Remembers a prompt for `keep_s` after its last strike, and the last `limit` prompts."""

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic, limit: int = LIMIT) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._limit = limit
        self._cases: OrderedDict[str, _Case] = OrderedDict()
        self._deaths: deque[tuple[float, Start]] = deque(maxlen=OTHER_DEATHS_LIMIT)

    def __bool__(self) -> bool:
        """Whether anybody is suspected of anything."""
        return bool(self._cases)

    def death(self, strike: Strike) -> None:
        """A worker died, whoever was to blame."""
        self._deaths.append((self._clock(), strike.start))

    def strike(self, prompt: str, strike: Strike, *, proven: bool) -> bool:
        """Whether `prompt` is quarantined by this."""
        case = self._open(prompt, self._keep_s)
        before = [one for one in case.strikes if one.role is strike.role and one.start != strike.start]
        case.strikes = [*before, strike][-3:]
        enough = 3 if self._others_die(case.strikes) else 2
        newly = proven and len(case.strikes) >= enough and not case.convicted
        if newly:
            case.convicted = True
            self._explain({one.start for one in case.strikes})
        return newly

    def convict(self, prompt: str, for_s: float) -> None:
        """Another gateway has found out."""
        self._open(prompt, min(for_s, self._keep_s)).convicted = True

    def acquit(self, prompt: str) -> None:
        """It was computed, and nothing happened."""
        self._cases.pop(prompt, None)

    def suspects(self, prompt: str) -> bool:
        """Whether it must be tried with care: a worker was struck."""
        return self._case(prompt) is not None

    def check(self, prompt: str) -> None:
        """Raises Quarantined."""
        case = self._case(prompt)
        if case is not None and case.convicted:
            left_s = case.until_s - self._clock()
            raise Quarantined(f"this prompt has crashed two workers and is refused for another {left_s:.0f} s")

    def revive(self, boot: Callable[[Role, str], str | None]) -> None:
        """Take back the strikes of workers that were cut off and are heard again: they had not died."""
        for prompt, case in list(self._cases.items()):
            alive = [one for one in case.strikes if _was_cut_off(one, boot(one.role, one.worker))]
            if alive:
                self._explain({one.start for one in alive})
                case.strikes = [one for one in case.strikes if one not in alive]
                case.convicted = False
                if not case.strikes:
                    del self._cases[prompt]

    def _others_die(self, strikes: Sequence[Strike]) -> bool:
        since_s = self._clock() - OTHER_DEATHS_S
        own = {strike.start for strike in strikes}
        return any(died_s > since_s and start not in own for died_s, start in self._deaths)

    def _explain(self, starts: set[Start]) -> None:
        """These deaths are nobody else's alibi any more."""
        kept = [death for death in self._deaths if death[1] not in starts]
        self._deaths.clear()
        self._deaths.extend(kept)

    def _open(self, prompt: str, keep_s: float) -> _Case:
        case = self._case(prompt) or _Case([], 0.0)
        case.until_s = self._clock() + keep_s
        self._cases[prompt] = case
        self._cases.move_to_end(prompt)
        if len(self._cases) > self._limit:
            self._cases.popitem(last=False)
        return case

    def _case(self, prompt: str) -> _Case | None:
        case = self._cases.get(prompt)
        if case is not None and case.until_s <= self._clock():
            del self._cases[prompt]
            return None
        return case


def _was_cut_off(strike: Strike, boot: str | None) -> bool:
    """Whether the process that was struck lives: in its start of then, though it was silent, or in a later one."""
    return boot is not None and same_process(boot, strike.boot) and (strike.silent or boot != strike.boot)
