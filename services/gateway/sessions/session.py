"""One session: its journal (what was asked, what has been emitted) and the tokens that wait for its reader."""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import cached_property

import msgspec

from services.gateway.generation import GenerationRequest
from services.gateway.sessions.delivery import Delivery
from services.gateway.sessions.quarantine import prompt_key
from services.gateway.sessions.timeline import Timeline
from shared.core import FinishReason, Role, SampledToken
from shared.errors import BatonError, DeadlineExceeded
from shared.protocol.to_gateway import TokenFrame
from shared.protocol.to_scheduler import Placed, PlaceRequest
from shared.protocol.wire import pack_ids


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """What another gateway has done of a session: it goes on in `epoch`, which is above all of that gateway's.

    `arithmetic` and `fingerprint` are those of the decode that made the `emitted` tokens, empty where not known.
    `begun`: its client has had tokens, though they may be none of these.
    """

    session: str
    epoch: int
    emitted: tuple[int, ...]
    arithmetic: str = ""
    fingerprint: str = ""
    begun: bool = False


class Session:
    """Fed with frames by the gateway's listener, read by one reader, which may be slow.

    What waits is bounded by the request's `max_tokens`, and the reader takes all of it at once. `moves` counts how
    often it was placed anew, `failures` how often because workers failed it; `left` says that its reader is gone,
    `given_up` that its gateway ends it; `heard` has the boots of the present epoch's workers that have been heard;
    `heard_at_s` is when the epoch last spoke; `began` which phases said that their engine has it in hand; `trial` that
    it is suspected of having ended a worker; `begun` that workers have held it.
    """

    def __init__(self, request: GenerationRequest, resumption: Resumption | None = None) -> None:
        begun = resumption or Resumption(session=secrets.token_hex(16), epoch=0, emitted=())
        self.id = begun.session
        self.request = request
        self.timeline = Timeline()
        self.placed: Placed | None = None
        self.handed_off = False
        self.began: set[Role] = set()
        self.trial = False
        # One that is resumed has had its place, and waits for another as those do that are moved.
        self.moves = 0 if resumption is None else 1
        self.failures = 0
        self.left = False
        self.given_up = asyncio.Event()
        self.heard: dict[tuple[Role, str], str] = {}
        self.gaps_s: list[float] = []
        self.arithmetic = begun.arithmetic
        self.fingerprint = begun.fingerprint
        self.begun = begun.begun or bool(begun.emitted)
        self._delivery = Delivery(begun.epoch, len(begun.emitted))
        self._emitted = list(begun.emitted)
        self._resumed_at = self._epoch_start = len(begun.emitted)
        self._left_workers: list[str] = []
        self._waiting: list[SampledToken] = []
        self._failure: BatonError | None = None
        self._arrived = asyncio.Event()
        self._stopped = False
        self._placed_at_s = 0.0
        self.heard_at_s = 0.0
        self._disowned_s: dict[tuple[Role, str], float] = {}
        self._waits_since_s: float | None = None
        self._deadline_s = time.monotonic() + request.deadline_s

    @property
    def epoch(self) -> int:
        return self._delivery.epoch

    @property
    def finished(self) -> bool:
        """Whether the answer is whole: the workers ended it, or its reader did."""
        return self._stopped or self._delivery.finish is not None

    @property
    def failed(self) -> bool:
        """Whether the present epoch is over, and its reader has not come to know."""
        return self._failure is not None

    @property
    def received_tokens(self) -> int:
        """How many tokens workers have sent to this gateway."""
        return len(self._emitted) - self._resumed_at

    @property
    def next_index(self) -> int:
        """Of the first token that has not arrived."""
        return self._delivery.next_index

    def needed_workers(self) -> list[tuple[Role, str]]:
        """On whom the present epoch depends: decode, and prefill until the cache is handed over."""
        if self.placed is None or self.finished:
            return []
        decode, prefill = (Role.DECODE, self.placed.decode), (Role.PREFILL, self.placed.prefill)
        return [decode] if self.handed_off else [decode, prefill]

    def disown(self, role: Role, worker: str) -> None:
        """This worker has said that it does not hold the session."""
        self._disowned_s.setdefault((role, worker), time.monotonic())

    def disowned_for_s(self) -> float:
        """How long a worker it needs has not held it, and nothing was heard of it; 0 when all do."""
        moments_s = [self._disowned_s[worker] for worker in self.needed_workers() if worker in self._disowned_s]
        return min(time.monotonic() - min(moments_s), self.quiet_for_s()) if moments_s else 0.0

    @property
    def epoch_tokens(self) -> int:
        """How many tokens the present epoch has brought: the first one is from prefill."""
        return len(self._emitted) - self._epoch_start

    @cached_property
    def prompt(self) -> str:
        """The name of its prompt (`prompt_key`)."""
        return prompt_key(self.request.prompt_ids)

    def left_s(self) -> float:
        return self._deadline_s - time.monotonic()

    def placed_for_s(self) -> float:
        """How long ago the present epoch was placed."""
        return time.monotonic() - self._placed_at_s

    def quiet_for_s(self) -> float:
        """How long no frame of the present epoch has come since it was placed."""
        return time.monotonic() - self.heard_at_s

    def missing_for_s(self) -> float:
        """How long later tokens have waited for one that has not arrived; 0 when none do."""
        return 0.0 if self._waits_since_s is None else time.monotonic() - self._waits_since_s

    def stop(self) -> None:
        """Its reader has the whole answer, whatever the workers might add."""
        self._stopped = True

    def begin_epoch(self, epoch: int) -> None:
        """From now on only `epoch` may speak. What has been emitted stays."""
        self._delivery.begin(epoch)
        self.timeline.begin_epoch()
        if self.placed is not None:
            self._left_workers += (self.placed.prefill, self.placed.decode)
        self.placed = None
        self.handed_off = False
        self.heard.clear()
        self._disowned_s.clear()
        self.began.clear()
        self._epoch_start = len(self._emitted)
        self._failure = None
        self._waits_since_s = None

    def taken_by_boot(self, role: Role) -> str:
        """In which of its starts the worker took the session; empty when it did not say."""
        if self.placed is None:
            return ""
        return self.placed.decode_boot if role is Role.DECODE else self.placed.prefill_boot

    def place_request(self, gateway: str, model: str, tokenizer: str = "") -> PlaceRequest:
        """What a scheduler needs to place the session in its present epoch: prompt and emitted tokens."""
        return PlaceRequest(
            session=self.id,
            epoch=self.epoch,
            gateway=gateway,
            model=model,
            prompt_ids=pack_ids([*self.request.prompt_ids, *self._emitted]),
            max_tokens=self.request.max_tokens,
            sampling=self.request.sampling,
            deadline_ms=max(1, int(self.left_s() * 1000)),
            emitted=len(self._emitted),
            begun=self.begun,
            avoid=tuple(self._left_workers),
            arithmetic=self.arithmetic,
            fingerprint=self.fingerprint if self._emitted else "",
            tokenizer=tokenizer,
            trial=self.trial,
            cache_salt=self.request.cache_salt,
        )

    def place(self, placed: Placed) -> None:
        self.placed = placed
        self.arithmetic = placed.arithmetic
        self.fingerprint = placed.fingerprint
        self.begun = True
        self._placed_at_s = self.heard_at_s = time.monotonic()
        self.timeline.placed(placed)

    def on_frame(self, frame: TokenFrame) -> None:
        """Take in one frame. Raises ProtocolError for one that makes no sense."""
        tokens = self._delivery.accept(frame)
        if frame.epoch == self.epoch:
            self.heard_at_s = time.monotonic()
            self.timeline.report(frame)
            self.handed_off = self.handed_off or frame.handoff is not None
            if frame.began is not None:
                self.began.add(frame.began)
        if not self._delivery.waits:
            self._waits_since_s = None
        elif tokens or self._waits_since_s is None:
            self._waits_since_s = time.monotonic()
        if tokens:
            gap_s = self.timeline.tokens(len(tokens))
            if gap_s is not None:
                self.gaps_s.append(gap_s)
            self._waiting += tokens
            self._emitted += [token.token_id for token in tokens]
        if self._delivery.error is not None:
            self._failure = self._delivery.error
        self._arrived.set()

    def fail(self, error: BatonError) -> None:
        """The present epoch is over, whatever its workers still say."""
        if not self.finished:
            self._failure = error
            self._arrived.set()

    def give_up(self, error: BatonError) -> None:
        """End it with `error`, without another epoch."""
        self.given_up.set()
        self.fail(error)

    def raise_if_given_up(self) -> None:
        if self.given_up.is_set() and self._failure is not None:
            raise self._failure

    async def next_tokens(self) -> tuple[list[SampledToken], FinishReason | None]:
        """All tokens that have arrived since the last call, at least one unless it is the end.

        Raises the failure of the present epoch once what came before it is taken, and DeadlineExceeded.
        """
        while not self._waiting and not self.finished:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._wait()
        tokens, self._waiting = self._waiting, []
        return tokens, self._delivery.finish

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(max(0.0, self.left_s())):
                await self._arrived.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"not done within {self.request.deadline_s:g} s") from None
