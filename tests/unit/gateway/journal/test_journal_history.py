"""What is known of a session from its records."""

from __future__ import annotations

import msgspec
import pytest

from services.gateway.generation import GenerationRequest
from services.gateway.journal.history import History, opened
from services.gateway.kept.page import Page
from services.gateway.kept.session import KeptSession
from services.gateway.kept.transcript import Transcript
from shared.bus.memory_stream import Stored
from shared.core import FinishReason, SampledToken, SamplingParams, TokenLogprob
from shared.errors import DeadlineExceeded, ProtocolError
from shared.protocol.journal import Appended, Owned, Rendering, first_epoch
from shared.protocol.to_client import Timings
from shared.protocol.wire import Message, encode, pack_ids

SESSION = "0" * 32
REQUEST = GenerationRequest(
    request_id="r",
    prompt_ids=(1, 2, 3),
    max_tokens=90,
    sampling=SamplingParams(temperature=1.0, seed=7, logit_bias={5: 1.0}, logprobs=1),
    stop=("END",),
    deadline_s=12.5,
    resumable=True,
    rendering=Rendering(chat=True, response_id="chatcmpl-r", created_unix_s=5, include_usage=True),
)


def records(*messages: tuple[str, Message]) -> list[Stored]:
    return [
        Stored(number, f"baton.v1.journal.{SESSION}.{kind}", encode(message))
        for number, (kind, message) in enumerate(messages, start=1)
    ]


def request() -> tuple[str, Message]:
    return "request", opened(SESSION, REQUEST, gateway="g", model="m")


def tokens(index: int, *ids: int, tenure: int = 0, **fields: object) -> tuple[str, Message]:
    given = {"left_ms": 1000} | fields
    return "tokens", Appended(tenure=tenure, index=index, ids=pack_ids(ids), **given)  # type: ignore[arg-type]


def owner(tenure: int) -> tuple[str, Message]:
    return "owner", Owned(tenure=tenure, gateway="other")


def history(*messages: tuple[str, Message]) -> History:
    found = History.of(records(*messages))
    assert found is not None
    return found


def ids_of(history: History) -> list[int]:
    return [token.token_id for token in history.tokens]


def test_the_request_comes_back_as_it_was():
    assert history(request()).request == REQUEST
    assert history(request()).left_s == 12.5


def test_without_the_request_nothing_is_known():
    assert History.of(records(owner(1), tokens(0, 5))) is None
    assert History.of([]) is None


def test_tokens_join_whatever_is_said_twice():
    assert ids_of(history(request(), tokens(0, 5, 6), tokens(1, 6, 7), tokens(0, 5), tokens(3, 8))) == [5, 6, 7, 8]


def test_nothing_after_a_gap_counts():
    found = history(request(), tokens(0, 5), tokens(2, 7, finish=FinishReason.LENGTH))
    assert ids_of(found) == [5]
    assert not found.ended


def test_what_a_former_owner_still_writes_counts_for_nothing():
    found = history(
        request(),
        tokens(0, 5),
        owner(1),
        tokens(1, 99, finish=FinishReason.STOP),
        tokens(1, 6, tenure=1),
        tokens(2, 99),
    )
    assert ids_of(found) == [5, 6]
    assert (found.tenure, found.owner_sequence, found.ended) == (1, 3, False)


def test_the_last_owner_counts():
    found = history(request(), owner(1), owner(2))
    assert (found.tenure, found.owner_sequence) == (2, 3)


def test_the_end_comes_with_what_belongs_to_it():
    timings = Timings(total_ms=3.0)
    found = history(request(), tokens(0, 5, finish=FinishReason.STOP, timings=timings), tokens(1, 6))
    assert (ids_of(found), found.finish, found.timings, found.ended) == ([5], FinishReason.STOP, timings, True)


def test_what_made_the_tokens_is_known_for_those_to_come():
    page = Page(SESSION, 0, Transcript([SampledToken(token) for token in range(20)]), lambda: 1.0)
    page.arithmetic, page.fingerprint = "bfloat16", "f" * 16
    record = page.next()
    assert record is not None
    resumed = KeptSession.resumed(history(request(), ("tokens", record))).session
    asked = resumed.place_request("g", "m")
    assert (asked.emitted, asked.arithmetic, asked.fingerprint) == (20, "bfloat16", "f" * 16)


@pytest.mark.parametrize("after", [0, 3])
def test_who_has_had_tokens_goes_on_before_who_has_not_begun(after: int):
    """Though the journal has none of them."""
    asked = KeptSession.resumed(history(request()), after).session.place_request("g", "m")
    assert (asked.emitted, asked.begun) == (0, after > 0)


def test_a_failure_is_the_same_error_again():
    found = history(request(), tokens(0, error=DeadlineExceeded("late").info))
    assert isinstance(found.error, DeadlineExceeded)
    assert found.ended


def test_the_deadline_is_what_was_left_at_the_last_token():
    assert history(request(), tokens(0, 5, left_ms=400), tokens(1, 6, left_ms=300)).left_s == 0.3


def test_log_probabilities_come_back():
    found = history(request(), tokens(0, 5, logprobs=(TokenLogprob(-0.5, ((5, -0.5),)),)))
    assert found.tokens[0].logprob == TokenLogprob(-0.5, ((5, -0.5),))
    with pytest.raises(ProtocolError):
        history(request(), tokens(0, 5, 6, logprobs=(None,)))


def test_a_tenure_has_its_epochs_above_all_before():
    assert first_epoch(0) == 0
    assert first_epoch(2) - first_epoch(1) == 1 << 16
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"tenure": 1 << 16, "gateway": "g"}, Owned)
