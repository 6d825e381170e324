"""The prefill queue: which prompt tokens are computed in the next call. Plain object over the engine's memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.prefill.order import Order, rank_of
from services.prefill.run import PrefillRun, RunState
from shared.engine.contract import Engine, PrefillSlice
from shared.errors import BatonError, ContextExceeded, InvalidRequest, KvExhausted, Overloaded

FIRST_COME = rank_of(Order.ARRIVAL, aging_tokens_per_s=0.0)


class RunQueue:
    """Several short prompts share a call; a long one goes slice by slice. The one of the least `rank` goes first.

    Streams that lost their workers go before all that have not begun: a client is reading them.
    """

    def __init__(
        self,
        engine: Engine,
        limit_tokens: int,
        rank: Callable[[PrefillRun, float], float] = FIRST_COME,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._limit_tokens = limit_tokens
        self._rank = rank
        self._clock = clock
        self._runs: list[PrefillRun] = []

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens accepted and not computed."""
        return sum(run.remaining_tokens for run in self._runs)

    def admit(self, run: PrefillRun) -> None:
        """Raises Overloaded when too much waits already, InvalidRequest and ContextExceeded for what never fits."""
        spec = self._engine.spec
        if not 0 <= run.order.cached_tokens < run.prompt_tokens:
            raise InvalidRequest("the prompt has nothing to compute", param="prompt")
        if run.prompt_tokens * spec.layout.token_bytes > self._engine.usage().total_bytes:
            raise ContextExceeded(f"a prompt of {run.prompt_tokens} tokens exceeds this worker's KV memory")
        if self._runs and self.queued_tokens + run.remaining_tokens > self._limit_tokens:
            raise Overloaded(f"{self.queued_tokens} prompt tokens wait already")
        self._runs.append(run)

    def pick(
        self, budget_tokens: int
    ) -> tuple[list[tuple[PrefillRun, PrefillSlice]], list[tuple[PrefillRun, BatonError]]]:
        """The slices of the next call, at most `budget_tokens`; and the runs the engine refuses for good.

        A run whose memory is not free yet waits, and with it all behind it that have none: else it might wait for ever.
        """
        picked: list[tuple[PrefillRun, PrefillSlice]] = []
        refused: list[tuple[PrefillRun, BatonError]] = []
        full = False
        for run in self._in_order():
            if budget_tokens <= 0:
                break
            if full and run.state is RunState.QUEUED:
                continue
            try:
                self._ensure_open(run)
            except KvExhausted:
                full = True
                continue
            except BatonError as error:
                refused.append((run, error))
                continue
            part = run.next_slice(budget_tokens)
            budget_tokens -= part.stop - part.start
            picked.append((run, part))
        return picked, refused

    def remove(self, run: PrefillRun) -> None:
        """Computed or given up. Idempotent."""
        if run in self._runs:
            self._runs.remove(run)

    def _in_order(self) -> list[PrefillRun]:
        now_s = self._clock()
        return sorted(self._runs, key=lambda run: (not run.order.begun, self._rank(run, now_s)))

    def _ensure_open(self, run: PrefillRun) -> None:
        if run.state is RunState.QUEUED:
            run.begin(self._engine.open(run.sequence()))
