"""The requests of the load: prompts of varied lengths, greedy and seeded, some left midway, some read slowly."""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from shared.core import SamplingParams
from shared.runtime.process_settings import EngineKind


class Door(enum.StrEnum):
    SSE = "sse"
    WEBSOCKET = "websocket"
    NATS = "nats"


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges of lengths, and how many different questions there are; 0: no end of them."""

    prompt_tokens: tuple[int, int]
    max_tokens: tuple[int, int]
    slow_tokens: int
    questions: int
    burst: int


SHAPES = {
    EngineKind.FAKE: Shape(prompt_tokens=(4, 1500), max_tokens=(4, 200), slow_tokens=500, questions=0, burst=60),
    EngineKind.TORCH: Shape(prompt_tokens=(4, 400), max_tokens=(4, 60), slow_tokens=60, questions=24, burst=24),
}
VOCABULARY = 40_000
LEAVING = 0.1
SLOW = 0.05
RESUMABLE = 0.4
HOPPING = 0.3
FOLLOWING = 0.3
FOLLOWED_TOKENS = 2000
REMEMBERED = 16
SLOW_PAUSE_S = 0.02


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer depends on. `seed` None: greedy."""

    prompt: tuple[int, ...]
    max_tokens: int
    seed: int | None = None

    @property
    def body(self) -> dict[str, Any]:
        """The parameters that every door takes."""
        sampling = {"temperature": 0} if self.seed is None else {"temperature": 0.8, "top_p": 0.95, "seed": self.seed}
        return {"prompt": list(self.prompt), "max_tokens": self.max_tokens, "ignore_eos": True, **sampling}

    @property
    def sampling(self) -> SamplingParams:
        """The same for an engine."""
        if self.seed is None:
            return SamplingParams(temperature=0.0)
        return SamplingParams(temperature=0.8, top_p=0.95, seed=self.seed)


class LoadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A question and how its client behaves. `pause_s`: rest after each piece read.

    `cancel_at`: leave when so many tokens have come, by saying so if `polite`, else by going away. `hop_at`: drop the
    connection then, and ask for the rest, at any gateway; for this and for dead gateways it must be `resumable`.
    """

    question: Question
    door: Door
    cancel_at: int | None = None
    polite: bool = True
    resumable: bool = False
    hop_at: int | None = None
    pause_s: float = 0.0


class RequestMaker:
    """Makes one request after the other, the same ones for the same seed. `questions`: all there are, if they end.

    Some go on from an earlier question and its answer, which `remember` is told, or from a part of them.
    """

    def __init__(self, shape: Shape, seed: int) -> None:
        self._shape = shape
        self._dice = random.Random(f"{seed} requests")
        self._earlier: deque[tuple[int, ...]] = deque(maxlen=REMEMBERED)
        self.questions = [self._new_question() for _ in range(shape.questions)]

    def next(self) -> LoadRequest:
        """For the steady load."""
        dice = self._dice
        question = dice.choice(self.questions) if self.questions else self._new_question()
        slow, leaving = dice.random() < SLOW, dice.random() < LEAVING
        resumable, hopping = dice.random() < RESUMABLE, dice.random() < HOPPING
        if slow and not self.questions:
            question = msgspec.structs.replace(question, max_tokens=self._shape.slow_tokens)
        return LoadRequest(
            question=question,
            door=dice.choice(list(Door)),
            cancel_at=dice.randrange(question.max_tokens) if leaving else None,
            polite=dice.random() < 0.5,
            resumable=resumable,
            hop_at=dice.randrange(question.max_tokens) if resumable and hopping else None,
            pause_s=SLOW_PAUSE_S if slow else 0.0,
        )

    def remember(self, question: Question, answer: Sequence[int]) -> None:
        """So that others may go on from there."""
        if len(question.prompt) + len(answer) < FOLLOWED_TOKENS:
            self._earlier.append((*question.prompt, *answer))

    def burst(self) -> list[LoadRequest]:
        """More at once than KV memory holds."""
        questions = [self._long_question() for _ in range(self._shape.burst)]
        return [LoadRequest(question=question, door=self._dice.choice(list(Door))) for question in questions]

    def _new_question(self) -> Question:
        return Question(
            prompt=self._beginning() + self._ids(self._length(self._shape.prompt_tokens)),
            max_tokens=self._length(self._shape.max_tokens),
            seed=self._dice.choice([None, self._dice.randrange(1 << 31)]),
        )

    def _long_question(self) -> Question:
        if self.questions:
            return self._dice.choice(sorted(self.questions, key=lambda question: -len(question.prompt))[:8])
        prompt = self._ids(self._shape.prompt_tokens[1] // 2)
        return Question(prompt=prompt, max_tokens=self._shape.max_tokens[1])

    def _beginning(self) -> tuple[int, ...]:
        """Of a prompt: all of an earlier one and its answer, a part of them, or mostly nothing."""
        if not self._earlier or self._dice.random() >= FOLLOWING:
            return ()
        earlier = self._dice.choice(self._earlier)
        return earlier[: self._dice.choice([len(earlier), self._dice.randrange(len(earlier))])]

    def _ids(self, count: int) -> tuple[int, ...]:
        return tuple(self._dice.randrange(VOCABULARY) for _ in range(count))

    def _length(self, limits: tuple[int, int]) -> int:
        """Short ones more often than long ones: even on a logarithmic scale."""
        low, high = limits
        return round(math.exp(self._dice.uniform(math.log(low), math.log(high))))
