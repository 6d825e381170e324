"""What must be answered: computed where the engine is the fake one, else taken from an undisturbed run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.soak.door_websocket import WebSocketDoor
from benchmarks.soak.record import Record, Token
from benchmarks.soak.request import Door, LoadRequest, Question
from shared.engine.contract import PrefillSlice, SequenceSpec
from shared.engine.fake import FakeEngine, fake_spec
from shared.models.facts import read_model_facts
from shared.text.tokenizer import Tokenizer

KEY = "soak"


class Answers(Protocol):
    """Knows the token ids that answer a question."""

    def of(self, question: Question) -> Sequence[int]: ...


class ComputedAnswers:
    """The fake engine's tokens are a function of prompt and seed."""

    def __init__(self, model: Path) -> None:
        facts = read_model_facts(model)
        spec = fake_spec(KEY, facts.vocab_size, facts.context_tokens)
        self._engine = FakeEngine(spec, facts.context_tokens * spec.layout.token_bytes)

    def of(self, question: Question) -> Sequence[int]:
        prompt, max_tokens = question.prompt, question.max_tokens
        self._engine.open(
            SequenceSpec(
                key=KEY, prompt_ids=prompt, sampling=question.sampling, capacity_tokens=len(prompt) + max_tokens
            )
        )
        try:
            [first] = self._engine.prefill([PrefillSlice(KEY, 0, len(prompt))])
            assert first is not None
            return [first.token_id, *(self._engine.step([KEY])[0].token_id for _ in range(max_tokens - 1))]
        finally:
            self._engine.close(KEY)


class ReferenceAnswers:
    """Asks every question once, before anything is broken."""

    def __init__(self) -> None:
        self._known: dict[Question, Sequence[int]] = {}

    async def learn(self, questions: Sequence[Question], door: WebSocketDoor, url: str) -> None:
        for question in questions:
            record = Record(None)
            await door.ask(url, LoadRequest(question=question, door=Door.WEBSOCKET), record)
            self._known[question] = [token for token in record.tokens if isinstance(token, int)]

    def of(self, question: Question) -> Sequence[int]:
        return self._known[question]


class Expected:
    """What clients must be shown: token ids, or the text of each where a door gives no ids."""

    def __init__(self, answers: Answers, tokenizer: Tokenizer) -> None:
        self._answers = answers
        self._tokenizer = tokenizer

    def shown(self, ids: Sequence[int], door: Door) -> Sequence[Token]:
        """The answer `ids` at `door`."""
        return [self._tokenizer.token_text(token) for token in ids] if door is Door.SSE else ids

    def ids(self, question: Question) -> Sequence[int]:
        """The answer itself."""
        return self._answers.of(question)
