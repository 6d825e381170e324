"""The task that runs a resumable session."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from services.gateway.generation import GenerationRequest
from services.gateway.journal.history import History, opened
from services.gateway.kept.driver import Driver
from services.gateway.kept.session import KeptSession
from shared.core import FinishReason, SampledToken, SamplingParams
from shared.errors import WorkerFailed
from shared.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


class Course:
    """Plays `steps`; an error among them is raised."""

    def __init__(self, *steps: object) -> None:
        self._steps = list(steps)
        self.begun = 0

    async def begin(self, _session: object) -> None:
        self.begun += 1

    async def next_tokens(self, _session: object) -> object:
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def end(self, session: object) -> None:
        """The workers are told elsewhere."""


class Notes:
    def __init__(self) -> None:
        self.noted = 0

    def note(self, _page: object) -> None:
        self.noted += 1


def kept_of(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = (), max_tokens: int = 20) -> KeptSession:
    """A session of another gateway that had said `text`."""
    request = GenerationRequest(
        request_id="r", prompt_ids=(1,), max_tokens=max_tokens, sampling=SamplingParams(), stop=stop, resumable=True
    )
    history = History(opened("0" * 32, request, gateway="g", model="m"))
    history.tenure = 1
    history.tokens = sampled(tokenizer, text)
    return KeptSession.resumed(history)


def sampled(tokenizer: Tokenizer, text: str) -> list[SampledToken]:
    return [SampledToken(token) for token in tokenizer.encode(text, add_special_tokens=False)]


async def run(kept: KeptSession, course: Course, tokenizer: Tokenizer) -> Notes:
    notes = Notes()
    await Driver(kept, course, notes, tokenizer).run()  # type: ignore[arg-type]
    return notes


async def test_it_fills_the_transcript_to_the_end(tokenizer: Tokenizer):
    kept = kept_of(tokenizer, "ab")
    course = Course((sampled(tokenizer, "c"), None), (sampled(tokenizer, "d"), FinishReason.LENGTH))
    notes = await run(kept, course, tokenizer)
    assert kept.transcript.tokens == sampled(tokenizer, "abcd")
    assert (kept.transcript.finish, course.begun, notes.noted) == (FinishReason.LENGTH, 1, 3)


async def test_a_stop_string_across_the_break_ends_it(tokenizer: Tokenizer):
    kept = kept_of(tokenizer, "aE", stop=("END",))
    await run(kept, Course((sampled(tokenizer, "ND"), None)), tokenizer)
    assert kept.transcript.finish is FinishReason.STOP


async def test_a_stop_string_before_the_break_leaves_nothing_to_do(tokenizer: Tokenizer):
    kept, course = kept_of(tokenizer, "aEND", stop=("END",)), Course()
    await run(kept, course, tokenizer)
    assert (kept.transcript.finish, course.begun) == (FinishReason.STOP, 0)


async def test_whoever_had_all_tokens_has_the_end(tokenizer: Tokenizer):
    assert kept_of(tokenizer, "abc", max_tokens=3).transcript.finish is FinishReason.LENGTH


@pytest.mark.parametrize(("error", "code"), [(WorkerFailed("x"), "worker_failed"), (ArithmeticError(), "internal")])
async def test_what_ends_it_is_what_its_reader_gets(tokenizer: Tokenizer, error: Exception, code: str):
    kept = kept_of(tokenizer, "a")
    notes = await run(kept, Course(error), tokenizer)
    assert kept.transcript.error is not None
    assert (kept.transcript.error.code, notes.noted) == (code, 1)


async def test_it_goes_on_in_an_epoch_above_all_of_the_tenure_before(tokenizer: Tokenizer):
    kept = kept_of(tokenizer, "ab")
    asked = kept.session.place_request("g", "m")
    assert (asked.epoch, asked.emitted) == (1 << 16, 2)
